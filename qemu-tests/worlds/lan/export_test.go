package lan

import "io"

// ReadFrame shows the decoder to its fuzz target.
func ReadFrame(r io.Reader) ([]byte, error) { return readFrame(r) }
