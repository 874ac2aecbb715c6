package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]struct {
		canonical string
		schedule  ratelimit.Schedule
	}{
		"":                              {"", nil},
		"50MB/s":                        {"50MB/s", ratelimit.Schedule{{BytesPerSecond: 50e6}}},
		"20MB/s 08:00-18:00,50MB/s":     {"20MB/s 08:00-18:00,50MB/s", ratelimit.Schedule{{20e6, 480, 1080}, {BytesPerSecond: 50e6}}},
		"20 MB/s from 08:00 to 18:00":   {"20MB/s 08:00-18:00", ratelimit.Schedule{{20e6, 480, 1080}}},
		"1.5 MiB/s 22:30 - 6:00":        {"1572864B/s 22:30-06:00", ratelimit.Schedule{{1572864, 1350, 360}}},
		"unlimited 20:00-24:00,8Mbit/s": {"unlimited 20:00-24:00,1MB/s", ratelimit.Schedule{{0, 1200, 1440}, {BytesPerSecond: 1e6}}},
		"1kB/s 20:00-00:00":             {"1kB/s 20:00-24:00", ratelimit.Schedule{{1000, 1200, 1440}}},
		"1kB/s 00:00-24:00":             {"1kB/s", ratelimit.Schedule{{BytesPerSecond: 1000}}},
	} {
		got, err := ratelimit.Parse(text)
		if err != nil || !slices.Equal(got, want.schedule) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want.schedule)
		}
		if got.String() != want.canonical {
			t.Errorf("%q is written %q, want %q", text, got, want.canonical)
		}
		if again, err := ratelimit.Parse(got.String()); err != nil || !slices.Equal(again, got) {
			t.Errorf("%q is read back as %v, %v", got, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"20":                         "no rate",
		"20Mb/s":                     "no rate",
		"-1MB/s":                     "no rate",
		"0MB/s":                      "no rate",
		"NaNMB/s":                    "no rate",
		"2e9GB/s":                    "no rate",
		"1MB/s,2MB/s":                "put it last",
		"1MB/s 08:00-09:00,":         "no rate",
		"1MB/s08:00-18:00":           "space",
		"1MB/s 08:00":                "FROM-TO",
		"1MB/s 8-18":                 "time of day",
		"1MB/s 08:00-24:01":          "time of day",
		"1MB/s 08:60-18:00":          "time of day",
		"1MB/s 08:00-08:00":          "none",
		"1MB/s 24:00-08:00":          "none",
		"1MB/s 008:00-18:00":         "time of day",
		strings.Repeat("1MB/s,", 48): "rules",
	} {
		if s, err := ratelimit.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is taken as %v, error %v; want one with %q", text, s, err, want)
		}
	}
}

func clock(text string) time.Time {
	at, err := time.Parse("15:04:05", text)
	if err != nil {
		panic(err)
	}
	return at
}

func TestAt(t *testing.T) {
	s, err := ratelimit.Parse("20MB/s 08:00-18:00,unlimited 12:00-20:00,5MB/s 23:00-01:30,50MB/s")
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]int64{
		"07:59:59": 50e6, "08:00:00": 20e6, "17:59:59": 20e6, "18:00:00": 0, "20:00:00": 50e6, "23:00:00": 5e6, "00:00:00": 5e6, "01:29:59": 5e6, "01:30:00": 50e6,
	} {
		if got := s.At(clock(at)); got != want {
			t.Errorf("at %s the limit is %d, want %d", at, got, want)
		}
	}
	if got := (ratelimit.Schedule)(nil).At(clock("12:00:00")); got != 0 {
		t.Errorf("no schedule limits to %d", got)
	}
}

// TestWrittenAsRead: whatever a schedule says, it says the same after it was written and read.
func TestWrittenAsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text []string
		for range rapid.IntRange(1, 5).Draw(t, "rules") {
			from, to := rapid.IntRange(0, 1439).Draw(t, "from"), rapid.IntRange(0, 1440).Draw(t, "to")
			if from == to {
				to++
			}
			text = append(text, fmt.Sprintf("%dB/s %d:%02d-%d:%02d", rapid.Int64Range(1, 1<<40).Draw(t, "rate"), from/60, from%60, to/60, to%60))
		}
		s, err := ratelimit.Parse(strings.Join(text, ", "))
		if err != nil {
			if strings.Contains(err.Error(), "put it last") { // 00:00-24:00
				return
			}
			t.Fatal(err)
		}
		var again ratelimit.Schedule
		written, err := s.MarshalText()
		if err == nil {
			err = again.UnmarshalText(written)
		}
		if err != nil {
			t.Fatal(err)
		}
		for minute := range 1440 {
			at := clock("00:00:00").Add(time.Duration(minute) * time.Minute)
			if s.At(at) != again.At(at) {
				t.Fatalf("%s at %v: %d, then %d", written, at, s.At(at), again.At(at))
			}
		}
	})
}

// TestFollow runs through a day by synctest's clock, which starts at midnight UTC.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		midnight := time.Date(start.Year(), start.Month(), start.Day()+1, 0, 0, 0, 0, start.Location())
		time.Sleep(midnight.Sub(start))
		s, err := ratelimit.Parse("20MB/s 08:00-18:00,50MB/s")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 24*time.Hour)
		defer stop()
		var told []string
		fails := 0
		s.Follow(ctx, func(_ context.Context, limit int64) error {
			if limit == 20e6 && fails < 3 {
				fails++
				return errors.New("no answer")
			}
			told = append(told, fmt.Sprint(time.Since(midnight), " ", ratelimit.Rate(limit)))
			return nil
		})
		if want := []string{"0s 50MB/s", "8h0m30s 20MB/s", "18h0m0s 50MB/s"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if fails != 3 || time.Since(midnight) != 24*time.Hour {
			t.Errorf("%d failures, and it returned after %v", fails, time.Since(midnight))
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"20MB/s 08:00-18:00,50MB/s", "20 MB/s from 08:00 to 18:00", "unlimited", "1B/s 22:00-06:00", ","} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ratelimit.Parse(text)
		if err != nil {
			return
		}
		if again, err := ratelimit.Parse(s.String()); err != nil || !slices.Equal(again, s) {
			t.Errorf("%q is written %q, which is %v, %v", text, s, again, err)
		}
	})
}
