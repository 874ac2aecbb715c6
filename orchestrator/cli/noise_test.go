package cli_test

import "math/rand/v2"

// noise is bytes that neither compress nor repeat; zeroes for seed 0.
func noise(n int, seed byte) []byte {
	p := make([]byte, n)
	if seed != 0 {
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	}
	return p
}
