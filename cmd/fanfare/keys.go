package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/sealed"
)

// Modes of files: private ones are their owner's only.
const (
	privateMode = 0o600
	publicMode  = 0o644
)

const keysLong = `Keys makes the key that the signing secrets of subscriptions are sealed with, in
the log and in backups of it. A cluster has one, and every coordinator a copy
of its file (--secrets-key-file). Without it no delivery can be signed: keep
one more copy apart from the cluster.`

// keysCommand makes keys.
func keysCommand() *cobra.Command {
	return newGroup("keys", "Make the key of a cluster's secrets", keysLong, &cobra.Command{
		Use:   "create FILE",
		Short: "Write a new key to a file, which must not exist",
		Args:  oneArg("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeNew(args[0], sealed.NewKey(), privateMode); err != nil {
				return err
			}
			box, err := sealed.Open(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: a new key, of fingerprint %.12s\n", args[0], box.Fingerprint())
			return nil
		},
	})
}

// writeNew writes a file that must not exist, whole or not at all.
func writeNew(path string, text []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and is not overwritten; move it away first", path)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}
