package xapi

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Ref is an opaque reference to an object of a pool's database. It is valid for one pool only, and until the
// object is destroyed.
type Ref string

// NullRef is how the API writes 'no object' (xapi-facts §2).
const NullRef Ref = "OpaqueRef:NULL"

// IsNull reports whether r names no object. The empty string counts as null: it is what a field that an old
// host lacks decodes to.
func (r Ref) IsNull() bool { return r == NullRef || r == "" }

// Time is a datetime of the API (20250319T04:16:24Z). The epoch, which the API writes for 'unset', decodes to
// the zero time, so that IsZero answers 'was it ever set'. A value without a zone is taken as UTC.
type Time struct{ time.Time }

// timeFormat is the form that xapi writes; no fraction (xapi-facts §2).
const timeFormat = "20060102T15:04:05Z"

// timeLayouts are the forms accepted: a basic or extended date, then nothing, Z or an offset behind the time. xapi writes the
// first as a rule, an offset or nothing for a time that it was given so (xen-api, ocaml/libs/clock/date.ml). Go takes a fraction
// of a second with all of them.
var timeLayouts = []string{
	"20060102T15:04:05Z07:00", "20060102T15:04:05", "20060102T15:04:05Z0700", "20060102T15:04:05Z07",
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07",
}

// ParseTime reads a datetime in any form that the API is known to use.
func ParseTime(text string) (Time, error) {
	if text == "" {
		return Time{}, nil
	}
	for _, layout := range timeLayouts {
		parsed, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		parsed = parsed.UTC()
		if parsed.Equal(time.Unix(0, 0)) {
			return Time{}, nil
		}
		if year := parsed.Year(); year < 1 || year > 9999 {
			break // an offset moved it out of what can be written again
		}
		return Time{parsed}, nil
	}
	return Time{}, fmt.Errorf("%q is not a datetime of the XenAPI (such as %s)", text, timeFormat)
}

// String gives the API's form.
func (t Time) String() string {
	if t.IsZero() {
		return time.Unix(0, 0).UTC().Format(timeFormat)
	}
	return t.UTC().Format(timeFormat)
}

// MarshalJSON writes the API's form; the zero time becomes the epoch.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// UnmarshalJSON is the inverse of MarshalJSON.
func (t *Time) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("datetime: %w", err)
	}
	parsed, err := ParseTime(text)
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

// Float is a float argument. It is written with a decimal point always, because hosts up to 7.2 misread a
// float without one (xapi-facts §2).
type Float float64

// MarshalJSON writes 1 as 1.0.
func (f Float) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return nil, fmt.Errorf("the XenAPI takes finite floats only, not %v", float64(f))
	}
	text := strconv.FormatFloat(float64(f), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return []byte(text), nil
}
