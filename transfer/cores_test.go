package transfer

import "testing"

func TestIdleCores(t *testing.T) {
	before, known := idleCores()
	if !known || before <= 0 {
		t.Errorf("%v, %v", before, known)
	}
	for text, want := range map[string]float64{
		"cpu  1 2 3 400 50 6 7 8 9 10\ncpu0 1 1 1 1 1\n": 4.5,
		"cpu 1 2 3 4":                  -1,
		"cpu0 1 2 3 400 50 6 7 8 9 10": -1,
		"cpu  1 2 3 x 50 6":            -1,
		"":                             -1,
	} {
		if got, known := parseIdle([]byte(text)); known != (want >= 0) || known && got != want {
			t.Errorf("%q: %v, %v", text, got, known)
		}
	}
}
