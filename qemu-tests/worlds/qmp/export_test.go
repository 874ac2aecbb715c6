package qmp

import "bufio"

// ReadMessage and Event show the decoder to its fuzz target.
func ReadMessage(r *bufio.Reader) (Event, error) {
	m, err := readMessage(r)
	return m.event(), err
}

// MaxLine shows the limit to the tests.
const MaxLine = maxLine
