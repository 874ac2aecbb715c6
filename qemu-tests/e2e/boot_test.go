//go:build e2e

package e2e_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// readyLine is the delegate's word that it can be dialled, with the time since the kernel started.
var readyLine = regexp.MustCompile(`ready uptime=(\S+)`)

// BenchmarkBoot tells how long the image takes, by firmware: medians of the kernel's start to 'ready', and of power-on to 'ready'.
// Run it on an idle machine: make bench-boot.
func BenchmarkBoot(b *testing.B) {
	for _, firmware := range []string{"bios", "uefi", "direct"} {
		b.Run(firmware, func(b *testing.B) {
			l := network(b)
			var kernel, whole []time.Duration
			for b.Loop() {
				o := qemu.Options{Network: l.Socket()}
				if firmware == "direct" {
					o.Direct = direct(b)
				}
				began := time.Now()
				a := boot(b, o, "10.77.0.60/24", func(m *xapisim.Machine) {
					if firmware != "direct" {
						m.Firmware = firmware
					}
				})
				a.meet(l)
				whole = append(whole, time.Since(began))
				a.says("ready uptime=")
				uptime, err := time.ParseDuration(readyLine.FindStringSubmatch(a.console())[1])
				if err != nil {
					b.Fatal(err)
				}
				kernel = append(kernel, uptime)
				if err := a.Kill(); err != nil {
					b.Fatal(err)
				}
				<-a.Done()
			}
			b.ReportMetric(0, "ns/op") // a mean, of a few
			b.ReportMetric(median(kernel).Seconds(), "kernel-to-ready-s")
			b.ReportMetric(median(whole).Seconds(), "power-on-to-ready-s")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
