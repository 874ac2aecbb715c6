package line

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Spec describes a line. The zero value is one without limits.
type Spec struct {
	// Rate is how many bytes pass each way in a second; 0 is no limit.
	Rate int64
	// RTT is the round trip, as ping shows it; half of it is the delay each way.
	RTT time.Duration
	// Buffer is how many bytes wait for the line, each way, before the sender is held up; 0 is what the line carries in a round
	// trip, the usual size of a router's buffer, but not less than 256 KiB or 20 ms.
	Buffer int64
}

const (
	// leastBuffer and leastQueue keep a short line busy while this machine is.
	leastBuffer = 256 << 10
	leastQueue  = 20 * time.Millisecond
	// unlimited is what a line without a rate holds, in bytes.
	unlimited = 16 << 20
)

// Limits of a Spec.
const (
	maxRate = 1 << 40 // bytes a second
	maxRTT  = 10 * time.Second
)

// rateUnits are bits a second, as tc(8) writes them.
var rateUnits = []struct {
	suffix string
	bits   float64
}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}}

// ParseSpec reads "RATE,DELAY": a rate in kbit, mbit or gbit a second (0: no limit), then the round trip as a duration; as in
// "100mbit,100ms".
func ParseSpec(text string) (Spec, error) {
	s, err := parseSpec(text)
	if err != nil {
		return Spec{}, fmt.Errorf("line %.40q: %w; write RATE,DELAY such as 100mbit,100ms (the delay is the round trip)", text, err)
	}
	return s, nil
}

func parseSpec(text string) (s Spec, err error) {
	rate, delay, ok := strings.Cut(text, ",")
	if !ok {
		return s, errors.New("no comma")
	}
	if s.Rate, err = parseRate(strings.ToLower(strings.TrimSpace(rate))); err != nil {
		return s, err
	}
	if s.RTT, err = time.ParseDuration(strings.TrimSpace(delay)); err != nil {
		return s, fmt.Errorf("delay %.20q is no duration", delay)
	}
	return s, s.check()
}

func parseRate(text string) (int64, error) {
	if text == "0" {
		return 0, nil
	}
	for _, unit := range rateUnits {
		number, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if rate := n * unit.bits / 8; err == nil && rate >= 1 && rate <= maxRate {
			return int64(math.Round(rate)), nil
		}
		break
	}
	return 0, fmt.Errorf("rate %.20q is not a number of kbit, mbit or gbit", text)
}

func (s Spec) check() error {
	switch {
	case s.Rate < 0 || s.Rate > maxRate:
		return fmt.Errorf("a rate of %d bytes a second is not between 0 and %d", s.Rate, int64(maxRate))
	case s.RTT < 0 || s.RTT > maxRTT:
		return fmt.Errorf("a round trip of %v is not between 0 and %v", s.RTT, maxRTT)
	case s.Buffer < 0 || s.Buffer > maxRate:
		return fmt.Errorf("a buffer of %d bytes is not between 0 and %d", s.Buffer, int64(maxRate))
	}
	return nil
}

// String is what ParseSpec reads; the buffer is not part of it.
func (s Spec) String() string {
	rate := "0"
	if s.Rate > 0 {
		bits, unit := float64(s.Rate)*8, rateUnits[0]
		for _, u := range rateUnits[1:] {
			if bits >= u.bits {
				unit = u
			}
		}
		rate = strconv.FormatFloat(bits/unit.bits, 'g', -1, 64) + unit.suffix
	}
	return rate + "," + s.RTT.String()
}

// Capacity is how many bytes a direction holds, in flight and queued.
func (s Spec) Capacity() int64 {
	if s.Rate == 0 {
		return unlimited
	}
	buffer := s.Buffer
	if buffer == 0 {
		buffer = max(s.carries(s.RTT), s.carries(leastQueue), leastBuffer)
	}
	return s.carries(s.RTT)/2 + buffer
}

// carries is how many bytes pass in a time.
func (s Spec) carries(d time.Duration) int64 { return int64(float64(s.Rate) * d.Seconds()) }
