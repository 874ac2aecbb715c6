package peers

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// Tool is something that makes one disk equal to another, or stands for it.
type Tool struct {
	Name     string
	SameWork bool // as report.Row has it
	run      func(ctx context.Context, j Job) (report.Row, error)
}

// Run does the job once. The row lacks its case and budget.
func (t Tool) Run(ctx context.Context, j Job) (report.Row, error) {
	row, err := t.run(ctx, j)
	if err := errors.Join(err, ctx.Err()); err != nil {
		return row, fmt.Errorf("%s: %w", t.Name, err)
	}
	row.Tool, row.SameWork = t.Name, t.SameWork
	return row, nil
}

// measured makes a tool of commands. note says what it does not do.
func measured(name string, sameWork bool, note string, of func(j Job) (commands, error)) Tool {
	return Tool{Name: name, SameWork: sameWork, run: func(ctx context.Context, j Job) (report.Row, error) {
		c, err := of(j)
		if err != nil {
			return report.Row{}, err
		}
		u, command, err := j.run(ctx, c)
		row := report.Row{Wall: u.wall, CPU: u.cpu, PeakRSS: u.rss, ReadBytes: u.read, WireBytes: u.wire, Command: command, Note: note}
		if u.shared {
			row.Note += "; wire bytes of all that used the loopback device"
		}
		return row, err
	}}
}

// Understudy is the program under test. It measures its two ends itself: its starter also makes the manifest of a trusted run.
func Understudy(program string) Tool {
	return Tool{Name: report.Understudy, SameWork: true, run: func(ctx context.Context, j Job) (report.Row, error) {
		args := []string{program, "bench", "--json", "--source", j.Source, "--target", j.Target}
		if j.Trust {
			args = append(args, "--trust")
		}
		if j.Line.Flag != "" {
			args = append(args, "--line", j.Line.Flag)
		}
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Dir = j.Dir
		var said strings.Builder
		c.Stderr = &said
		out, err := c.Output()
		if err != nil {
			return report.Row{}, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
		}
		var told struct {
			report.Row
			LineShare float64 `json:"line_share"`
		}
		if err := json.Unmarshal(out, &told); err != nil {
			return report.Row{}, fmt.Errorf("unreadable row: %w", err)
		}
		told.Row.Command, told.Row.LineShare = typed(args), told.LineShare
		return told.Row, nil
	}}
}

// Rsync goes through its daemon. options are those beside the fixed ones.
func Rsync(name string, options ...string) Tool {
	note := "the line is not encrypted; knows nothing of the target beforehand"
	return measured(name, true, note, func(j Job) (commands, error) {
		const conf = "rsyncd.conf"
		module := fmt.Sprintf("use chroot = no\naddress = 127.0.0.1\n[disks]\npath = %s\nread only = no\nuid = %d\ngid = %d\n", j.Dir, os.Getuid(), os.Getgid())
		if err := os.WriteFile(filepath.Join(j.Dir, conf), []byte(module), 0o600); err != nil {
			return commands{}, err
		}
		return commands{
			server: func(port int) []string {
				return []string{"rsync", "--daemon", "--no-detach", "--config=" + conf, "--port=" + strconv.Itoa(port)}
			},
			client: func(port int) []string {
				args := append([]string{"rsync", "--inplace", "--no-whole-file", "--ignore-times", "--fsync"}, options...)
				return append(args, j.Source, fmt.Sprintf("rsync://127.0.0.1:%d/disks/%s", port, j.Target))
			},
		}, nil
	})
}

// The account and file of the key that nbdkit and its clients share for TLS.
const (
	pskUser = "bench"
	pskFile = "keys.psk"
)

func nbdkit(target string, tls bool) func(port int) []string {
	return func(port int) []string {
		args := []string{"nbdkit", "--foreground", "--ipaddr", "127.0.0.1", "--port", strconv.Itoa(port)}
		if tls {
			args = append(args, "--tls=require", "--tls-psk="+pskFile)
		}
		return append(args, "file", target)
	}
}

// writeKey makes the file that nbdkit and its clients read.
func writeKey(dir string) error {
	key := hex.EncodeToString([]byte("a key for measurements alone....")) // 32 bytes
	return os.WriteFile(filepath.Join(dir, pskFile), []byte(pskUser+":"+key+"\n"), 0o600)
}

const copiesOnly = "copies everything; compares and checks no content"

// Nbdcopy copies to nbdkit.
func Nbdcopy() Tool {
	return measured("nbdcopy", false, copiesOnly+"; the line is not encrypted", func(j Job) (commands, error) {
		return commands{server: nbdkit(j.Target, false), client: func(port int) []string {
			return []string{"nbdcopy", "--flush", j.Source, fmt.Sprintf("nbd://127.0.0.1:%d", port)}
		}}, nil
	})
}

// NbdcopyTLS is the same over TLS.
func NbdcopyTLS() Tool {
	return measured("nbdcopy-tls", false, copiesOnly, func(j Job) (commands, error) {
		return commands{server: nbdkit(j.Target, true), client: func(port int) []string {
			return []string{"nbdcopy", "--flush", j.Source, fmt.Sprintf("nbds://%s@127.0.0.1:%d?tls-psk-file=%s", pskUser, port, pskFile)}
		}}, writeKey(j.Dir)
	})
}

// QemuImg converts to nbdkit over TLS.
func QemuImg() Tool {
	return measured("qemu-img", false, copiesOnly, func(j Job) (commands, error) {
		return commands{server: nbdkit(j.Target, true), client: func(port int) []string {
			return []string{"qemu-img", "convert", "-n", "-W", "-m", "16", "-T", "none", "-f", "raw",
				"--object", "tls-creds-psk,id=key,endpoint=client,dir=.,username=" + pskUser, "--target-image-opts", j.Source,
				fmt.Sprintf("driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,file.server.port=%d,file.tls-creds=key", port)}
		}}, writeKey(j.Dir)
	})
}

// Dd copies within the machine.
func Dd() Tool {
	return measured("dd", false, copiesOnly+"; no connection", func(j Job) (commands, error) {
		return commands{client: func(int) []string {
			return []string{"dd", "if=" + j.Source, "of=" + j.Target, "bs=1M", "iflag=direct", "oflag=direct", "conv=notrunc,fsync", "status=none"}
		}}, nil
	})
}
