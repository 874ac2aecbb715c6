package state

import "log/slog"

const hidden = "[secret]"

// Secret is a value that must not reach a log, a message or a JSON document: whatever prints it prints "[secret]".
type Secret string

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "[secret]".
func (Secret) String() string { return hidden }

// GoString returns "[secret]".
func (Secret) GoString() string { return hidden }

// LogValue returns "[secret]".
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "[secret]", for JSON too.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
