package events_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestPagesAndLosses(t *testing.T) {
	r := events.NewRing(3)
	if page := r.Page(ended(), 0); len(page.Events) != 0 || page.Next != 0 || page.Lost != 0 || page.Events == nil {
		t.Errorf("an empty ring gives %+v", page)
	}
	for i := 1; i <= 5; i++ {
		r.Add(time.Unix(int64(i), 0), "INFO", fmt.Sprint(i))
	}
	for after, want := range map[int64]struct {
		first, lost int64
		count       int
	}{0: {3, 2, 3}, 1: {3, 1, 3}, 2: {3, 0, 3}, 4: {5, 0, 1}} {
		page := r.Page(ended(), after)
		if len(page.Events) != want.count || page.Events[0].Sequence != want.first || page.Lost != want.lost || page.Next != 5 {
			t.Errorf("after %d: %+v, want %+v", after, page, want)
		}
		if page.Events[0].Message != fmt.Sprint(want.first) {
			t.Errorf("after %d: message %q", after, page.Events[0].Message)
		}
	}
	if page := r.Page(ended(), 5); len(page.Events) != 0 || page.Next != 5 {
		t.Errorf("after the last: %+v", page)
	}
}

func TestWaits(t *testing.T) {
	r := events.NewRing(3)
	pages := make(chan control.EventPage)
	go func() { pages <- r.Page(context.Background(), 0) }()
	r.Add(time.Now(), "WARN", "came")
	if page := <-pages; len(page.Events) != 1 || page.Events[0].Message != "came" {
		t.Errorf("page is %+v", page)
	}
}

func TestHandler(t *testing.T) {
	r := events.NewRing(10)
	log := slog.New(events.NewHandler(r, slog.LevelInfo))
	log.Debug("not kept")
	log.With("task", "t 1").WithGroup("disk").With("n", 4).Warn("slow", "took", time.Second, slog.Group("at", "extent", 7))
	log.Info(strings.Repeat("x", 10_000))
	page := r.Page(t.Context(), 0)
	if len(page.Events) != 2 {
		t.Fatalf("events are %+v", page.Events)
	}
	if got, want := page.Events[0].Message, `slow task="t 1" disk.n=4 disk.took=1s disk.at.extent=7`; got != want || page.Events[0].Level != "WARN" {
		t.Errorf("event is %s %q, want WARN %q", page.Events[0].Level, got, want)
	}
	if length := len(page.Events[1].Message); length > 3000 {
		t.Errorf("a message of %d bytes is kept", length)
	}
}
