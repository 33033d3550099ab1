package main

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// exportNote is after how many lines an export says how far it is.
const exportNote = 10_000

// writeExport writes each message of a stream as a line of JSON.
func writeExport[M any, P interface {
	*M
	proto.Message
}](c *client, what string, stream grpc.ServerStreamingClient[M]) error {
	for written := 0; ; written++ {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			c.note("%d %s.", written, what)
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d %s: %w", written, what, err)
		}
		line, err := toJSON(P(message))
		if err != nil {
			return err
		}
		if err := c.writeln(string(line)); err != nil {
			return err
		}
		if (written+1)%exportNote == 0 {
			c.note("%d %s so far.", written+1, what)
		}
	}
}
