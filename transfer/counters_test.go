package transfer_test

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/transfer"
)

func TestBottleneck(t *testing.T) {
	sender := transfer.Counters{Elapsed: 10 * time.Second, Busy: map[transfer.Stage]time.Duration{
		transfer.StageRead: 1200 * time.Millisecond, transfer.StageHash: 8 * time.Second, transfer.StageLine: 900 * time.Millisecond,
	}}
	receiver := transfer.Counters{Elapsed: 10 * time.Second, Busy: map[transfer.Stage]time.Duration{
		transfer.StageRead: 100 * time.Millisecond, transfer.StageHash: time.Second, transfer.StageCompress: 500 * time.Millisecond, transfer.StageWrite: 300 * time.Millisecond,
	}}
	for name, c := range map[string]struct {
		sender transfer.Counters
		want   string
	}{
		"one disk":  {sender, "source 12 % · hash 80 % · compress 5 % · line 9 % · target 3 %"},
		"two disks": {sender.Add(sender), "source 12 % · hash 80 % · compress 5 % · line 9 % · target 3 %"},
		"no time":   {transfer.Counters{}, ""},
	} {
		if got := c.sender.Bottleneck(receiver); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if sender.Busy[transfer.StageHash] != 8*time.Second {
		t.Error("Add changed what it added to")
	}
}

// TestElapsedAndLevels: a transfer tells how long it took and how its content was compressed, and no stage was busier than that.
func TestElapsedAndLevels(t *testing.T) {
	source := random(12<<20, 1)
	for name, c := range map[string]struct {
		disk  []byte
		level transfer.Level
	}{
		"noise": {source, transfer.LevelRaw},
		"text":  {database(12 << 20), transfer.LevelFastest},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pipe(t)
			device := memory(t, make([]byte, len(c.disk)))
			o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, c.disk), Size: device.Size(), Key: key, Tuning: transfer.Tuning{Compression: transfer.CompressionOn}},
				transfer.SinkSpec{Trusted: transfer.ZeroBaseline(key, device.Size())}, transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Trusted: true})
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			s, r := o.send.Sinks[0].Counters, o.receive.Counters
			if s.Levels[c.level] != s.Sent || len(s.Levels) != 1 {
				t.Errorf("%d bytes were sent, by level %v", s.Sent, s.Levels)
			}
			for _, k := range []transfer.Counters{s, r} {
				if k.Elapsed <= 0 || k.Busy[transfer.StageHash] > k.Elapsed {
					t.Errorf("elapsed %v, busy %v", k.Elapsed, k.Busy)
				}
			}
		})
	}
}
