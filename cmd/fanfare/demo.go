package main

import (
	"context"
	"io"
)

func runDemo(ctx context.Context, out io.Writer, grpcAddress, httpAddress string) error { return nil }
