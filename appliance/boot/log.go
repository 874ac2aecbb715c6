package boot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // every kernel since 2.6.39 has this clock
	}
	return time.Duration(t.Nano())
}

// consoleHandler is a slog.Handler that prints "understudy: +1.23s message key=value" with the kernel's uptime: a delegate's
// wall clock may be anything.
type consoleHandler struct {
	attributes slog.Handler // writes a record's attributes into shared.text
	shared     *consoleText
}

type consoleText struct {
	mu    sync.Mutex
	text  bytes.Buffer
	print func(line string) // one call at a time
}

func newConsoleHandler(print func(line string)) slog.Handler {
	shared := &consoleText{print: print}
	return &consoleHandler{shared: shared, attributes: slog.NewTextHandler(&shared.text, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			_, isLevel := a.Value.Any().(slog.Level)
			isMessage := a.Key == slog.MessageKey && a.Value.String() == ""
			if len(groups) == 0 && (isMessage || a.Key == slog.LevelKey && isLevel) {
				return slog.Attr{} // they stand before the attributes
			}
			return a
		},
	})}
}

// Enabled implements slog.Handler.
func (h *consoleHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle implements slog.Handler.
func (h *consoleHandler) Handle(ctx context.Context, r slog.Record) error {
	level := ""
	if r.Level >= slog.LevelWarn {
		level = strings.ToLower(r.Level.String()) + ": "
	}
	line := fmt.Sprintf("understudy: +%.2fs %s%s", uptime().Seconds(), level, strings.ReplaceAll(r.Message, "\n", "; "))
	r.Time, r.Message = time.Time{}, ""

	h.shared.mu.Lock()
	defer h.shared.mu.Unlock()
	h.shared.text.Reset()
	if err := h.attributes.Handle(ctx, r); err != nil {
		return err
	}
	h.shared.print(strings.TrimSpace(line + " " + h.shared.text.String()))
	return nil
}

// WithAttrs implements slog.Handler.
func (h *consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &consoleHandler{attributes: h.attributes.WithAttrs(attrs), shared: h.shared}
}

// WithGroup implements slog.Handler.
func (h *consoleHandler) WithGroup(name string) slog.Handler {
	return &consoleHandler{attributes: h.attributes.WithGroup(name), shared: h.shared}
}
