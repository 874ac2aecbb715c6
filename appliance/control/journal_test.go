package control_test

import (
	"math"
	"net/http"
	"strconv"
	"testing"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
)

func pageHeader(sequence, watermark, end string) http.Header {
	header := make(http.Header)
	header.Set(control.HeaderSequence, sequence)
	header.Set(control.HeaderWatermark, watermark)
	header.Set(control.HeaderEnd, end)
	return header
}

func oneRecord() []byte {
	return manifest.AppendRecord(nil, manifest.Record{Extent: 3, Blocks: []manifest.Digest{{1}}})
}

func TestDecodePage(t *testing.T) {
	p, err := control.DecodePage(pageHeader("17", "4294967295", "true"), oneRecord())
	if err != nil || len(p.Records) != 1 || p.Records[0].Extent != 3 || p.Sequence != 17 || p.Watermark != math.MaxUint32 || !p.End {
		t.Errorf("page is %+v, %v", p, err)
	}
	for name, header := range map[string]http.Header{
		"no headers":            {},
		"negative sequence":     pageHeader("-1", "0", "false"),
		"long sequence":         pageHeader("9223372036854775808", "0", "false"),
		"record without number": pageHeader("0", "4", "false"),
		"long watermark":        pageHeader("17", "4294967296", "false"),
		"end":                   pageHeader("17", "4", "perhaps"),
	} {
		if p, err := control.DecodePage(header, oneRecord()); err == nil {
			t.Errorf("%s: decoded as %+v", name, p)
		}
	}
}

// Whatever a delegate answers, decoding does not panic, and what was decoded says the same when it is written again.
func FuzzPage(f *testing.F) {
	f.Add("1", "4", "false", oneRecord())
	f.Add("9223372036854775807", "4294967295", "true", []byte{})
	f.Add("-1", "", "1", []byte{0})
	f.Add("0", "4", "false", oneRecord())
	f.Fuzz(func(t *testing.T, sequence, watermark, end string, body []byte) {
		p, err := control.DecodePage(pageHeader(sequence, watermark, end), body)
		if err != nil {
			return
		}
		if p.Sequence < int64(len(p.Records)) {
			t.Errorf("%d records end with number %d", len(p.Records), p.Sequence)
		}
		again, err := control.DecodePage(pageHeader(strconv.FormatInt(p.Sequence, 10), strconv.FormatUint(uint64(p.Watermark), 10), strconv.FormatBool(p.End)), body)
		if err != nil || again.Sequence != p.Sequence || again.Watermark != p.Watermark || again.End != p.End || len(again.Records) != len(p.Records) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}
