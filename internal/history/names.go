package history

import (
	"fmt"
	"strconv"
	"strings"
)

// DeliveryID returns the last part of a delivery's resource name:
// `dlv_<partition>-<sequence>-<index>-<subscription>`, each in base 36. It
// says where the delivery is, so nothing has to be looked up to find it.
func DeliveryID(key DeliveryKey) string {
	parts := []string{
		strconv.FormatUint(uint64(key.Partition), 36), //nolint:gosec // never negative
		strconv.FormatUint(key.Sequence, 36),
		strconv.FormatUint(uint64(key.Index), 36),
		strconv.FormatUint(key.Subscription, 36),
	}
	return "dlv_" + strings.Join(parts, "-")
}

// ParseDeliveryID is the inverse of DeliveryID.
func ParseDeliveryID(id string) (DeliveryKey, error) {
	rest, ok := strings.CutPrefix(id, "dlv_")
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 4 {
		return DeliveryKey{}, fmt.Errorf("parsing delivery id %q: want dlv_ and four numbers", id)
	}
	var numbers [4]uint64
	for i, bits := range []int{31, 64, 32, 64} {
		n, err := strconv.ParseUint(parts[i], 36, bits)
		if err != nil {
			return DeliveryKey{}, fmt.Errorf("parsing delivery id %q: %w", id, err)
		}
		numbers[i] = n
	}
	return DeliveryKey{
		EventKey:     EventKey{Partition: int(numbers[0]), Sequence: numbers[1], Index: uint32(numbers[2])}, //nolint:gosec // parsed with its width
		Subscription: numbers[3],
	}, nil
}
