package signature_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// A sender signs with the new secret and the old one; a receiver that still
// has the old one is content.
func Example() {
	before, err := signature.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := signature.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		fmt.Println(err)
		return
	}

	body := []byte(`{"test": 2432232314}`)
	sent := time.Unix(1614265330, 0)
	header := http.Header{}
	signature.NewSigner(before, after).SetHeaders(header, signature.Message{
		ID:        "msg_p5jXN8AQM9LWM0D4loKWxJek",
		Timestamp: sent,
		Body:      body,
	})

	received := sent.Add(2 * time.Second)
	fmt.Println("as sent:", signature.Verify([]signature.Secret{before}, header, body, received, 0))
	fmt.Println("altered:", signature.Verify([]signature.Secret{before}, header, []byte(`{}`), received, 0))
	fmt.Println("next day:", signature.Verify([]signature.Secret{before}, header, body, received.AddDate(0, 0, 1), 0))
	fmt.Println("secret:", before)
	// Output:
	// as sent: <nil>
	// altered: no matching signature
	// next day: timestamp is too old: by more than 5m0s
	// secret: whsec_***
}
