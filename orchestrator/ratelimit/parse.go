package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits of a schedule.
const (
	maxRules = 48
	maxRate  = 1 << 40 // bytes a second
	day      = 24 * 60 // minutes
)

// units of a rate in bytes, the longest suffixes first. Mb/s is not among them: to some it is a bit, to others a byte.
var units = []struct {
	suffix string
	bytes  float64
}{
	{"kbit/s", 1e3 / 8}, {"Mbit/s", 1e6 / 8}, {"Gbit/s", 1e9 / 8}, {"KiB/s", 1 << 10}, {"MiB/s", 1 << 20}, {"GiB/s", 1 << 30},
	{"kB/s", 1e3}, {"KB/s", 1e3}, {"MB/s", 1e6}, {"GB/s", 1e9}, {"B/s", 1},
}

const unlimited = "unlimited"

// Parse reads rules with commas between them: a rate, then hours unless it is for the rest of the day, as in
// "20MB/s 08:00-18:00,50MB/s" or "20 MB/s from 08:00 to 18:00". The empty text is no limit.
func Parse(text string) (Schedule, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > maxRules {
		return nil, fmt.Errorf("limit: %d rules, at most %d", len(parts), maxRules)
	}
	s := make(Schedule, len(parts))
	for i, part := range parts {
		r, err := parseRule(strings.TrimSpace(part))
		if err == nil && r.always() && i < len(parts)-1 {
			err = errors.New("it is for the whole day, so that those after it never count: put it last")
		}
		if err != nil {
			return nil, fmt.Errorf("limit %.60q: %w; write such as 20MB/s 08:00-18:00,50MB/s", part, err)
		}
		s[i] = r
	}
	return s, nil
}

func parseRule(text string) (r Rule, err error) {
	rate, hours := text, ""
	if i := strings.LastIndex(text, "/s"); i >= 0 {
		rate, hours = text[:i+2], text[i+2:]
	} else if rest, ok := strings.CutPrefix(text, unlimited); ok {
		rate, hours = unlimited, rest
	}
	if r.BytesPerSecond, err = parseRate(rate); err != nil {
		return r, err
	}
	if hours == "" {
		return r, nil
	}
	if !strings.HasPrefix(hours, " ") {
		return r, errors.New("a space is missing before the hours")
	}
	from, to, ok := cutHours(strings.TrimSpace(hours))
	if !ok {
		return r, errors.New("the hours are not FROM-TO")
	}
	if r.From, err = parseClock(from); err != nil {
		return r, err
	}
	if r.To, err = parseClock(to); err != nil {
		return r, err
	}
	if r.From == r.To || r.From == day {
		return r, errors.New("these hours are none; leave them out for the whole day")
	}
	if r.To == 0 {
		r.To = day
	}
	if r.From == 0 && r.To == day {
		r.To = 0
	}
	return r, nil
}

func cutHours(text string) (from, to string, ok bool) {
	if rest, long := strings.CutPrefix(text, "from "); long {
		from, to, ok = strings.Cut(rest, " to ")
	} else {
		from, to, ok = strings.Cut(text, "-")
	}
	return strings.TrimSpace(from), strings.TrimSpace(to), ok
}

func parseRate(text string) (int64, error) {
	if text == unlimited {
		return 0, nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if rate := n * u.bytes; err == nil && rate >= 1 && rate <= maxRate {
			return int64(math.Round(rate)), nil
		}
		break
	}
	return 0, fmt.Errorf("%.20q is no rate: it is a number and one of B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s, kbit/s, Mbit/s, Gbit/s, or 'unlimited'", text)
}

// parseClock reads HH:MM, 24:00 included, in minutes.
func parseClock(text string) (int, error) {
	hours, minutes, ok := strings.Cut(text, ":")
	h, err := strconv.ParseUint(hours, 10, 8)
	m, err2 := strconv.ParseUint(minutes, 10, 8)
	if at := int(h)*60 + int(m); ok && err == nil && err2 == nil && len(minutes) == 2 && len(hours) <= 2 && m < 60 && at <= day {
		return at, nil
	}
	return 0, fmt.Errorf("%.20q is no time of day: it is HH:MM", text)
}

// String is what Parse reads.
func (s Schedule) String() string {
	rules := make([]string, len(s))
	for i, r := range s {
		rules[i] = r.String()
	}
	return strings.Join(rules, ",")
}

// String is what Parse reads as one rule.
func (r Rule) String() string {
	text := Rate(r.BytesPerSecond)
	if !r.always() {
		text += fmt.Sprintf(" %02d:%02d-%02d:%02d", r.From/60, r.From%60, r.To/60, r.To%60)
	}
	return text
}

// Rate writes a limit in the largest decimal unit that needs no rounding.
func Rate(bytesPerSecond int64) string {
	if bytesPerSecond == 0 {
		return unlimited
	}
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"GB/s", 1e9}, {"MB/s", 1e6}, {"kB/s", 1e3}} {
		if bytesPerSecond%u.bytes == 0 {
			return strconv.FormatInt(bytesPerSecond/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(bytesPerSecond, 10) + "B/s"
}

// MarshalText makes a schedule a string in JSON and configuration.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Schedule) UnmarshalText(text []byte) (err error) {
	*s, err = Parse(string(text))
	return err
}
