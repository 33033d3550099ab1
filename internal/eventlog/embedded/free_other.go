//go:build !linux && !darwin

package embedded

import (
	"errors"
	"fmt"
)

// Free is not known on this platform.
func Free(string) (free, total uint64, err error) {
	return 0, 0, fmt.Errorf("asking for free space: %w", errors.ErrUnsupported)
}
