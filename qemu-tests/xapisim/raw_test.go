package xapisim_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

// exchange makes a request to a data handler, under a task of its own, and gives the answer and the finished task's record.
func (c *client) exchange(method, address, path string, query url.Values, body []byte, change ...func(*http.Request)) (*http.Response, []byte, map[string]any) {
	c.t.Helper()
	task := c.text("task.create", "exchange", "")
	query.Set("session_id", c.session)
	query.Set("task_id", task)
	response, answer := c.put(address, query, bytes.NewReader(body), int64(len(body)), append([]func(*http.Request){func(r *http.Request) {
		r.Method, r.URL.Path = method, path
		if method == http.MethodGet {
			r.Body, r.ContentLength = nil, 0
		}
	}}, change...)...)
	return response, []byte(answer), c.finished(task)
}

// vdiOf is a new disk with content.
func (c *client) filled(pool *xapisim.Pool, sr string, content []byte) string {
	c.t.Helper()
	vdi := c.newVDI(sr, int64(len(content)))
	if err := os.WriteFile(c.path(pool, vdi), content, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return vdi
}

// image gives a VHD of which blocks are there.
func vhdOf(t *testing.T, d vhd.Disk, blocks []int64, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := vhd.Write(&out, d, blocks, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImportRaw(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr, size := c.one("SR", "shared"), 4*mib
	old, fresh := bytes.Repeat([]byte("old."), size/4), bytes.Repeat([]byte("new!"), size/4)
	framed := func(pieces ...int) []byte {
		var out []byte
		for _, at := range append(pieces, -1) {
			length, offset := 1000, uint64(at)
			if at < 0 {
				length, offset = 0, 0
			}
			out = binary.LittleEndian.AppendUint64(out, offset)
			out = append(binary.LittleEndian.AppendUint32(out, uint32(length)), fresh[:length]...)
		}
		return out
	}
	over := func(from, to int) []byte { return slices.Concat(old[:from], fresh[from:to], old[to:]) }
	small := vhd.Disk{Size: int64(size) - 2048}
	for name, test := range map[string]struct {
		query url.Values
		body  []byte
		want  []byte // the disk's content; nil for a failure
	}{
		"raw":                  {url.Values{}, fresh, fresh},
		"raw, said so":         {url.Values{"format": {"RAW"}}, fresh, fresh},
		"a short one":          {url.Values{}, fresh[:mib+512], over(0, mib+512)},
		"one that is too long": {url.Values{}, append(slices.Clone(fresh), 0), nil},
		"an empty one":         {url.Values{}, nil, nil},
		"chunked":              {url.Values{"chunked": {""}}, framed(8, 3*mib), slices.Concat(old[:8], fresh[:1000], old[1008:3*mib], fresh[:1000], old[3*mib+1000:])},
		"chunked, beyond":      {url.Values{"chunked": {"true"}}, framed(size - 999), nil},
		"chunked, far beyond":  {url.Values{"chunked": {"true"}}, framed(1 << 62), nil},
		"VHD":                  {url.Values{"format": {"vhd"}}, vhdOf(t, vhd.Disk{Size: int64(size)}, []int64{1}, fresh), over(2*mib, size)},
		"a smaller VHD":        {url.Values{"format": {"vhd"}}, vhdOf(t, small, []int64{1}, fresh), over(2*mib, size-2048)},
		"a differencing VHD":   {url.Values{"format": {"vhd"}}, vhdOf(t, vhd.Disk{Size: int64(size), Parent: &vhd.Parent{Name: "x"}}, []int64{0}, fresh), over(0, 2*mib)},
		"a larger VHD":         {url.Values{"format": {"vhd"}}, vhdOf(t, vhd.Disk{Size: int64(size) + 512}, []int64{2}, append(slices.Clone(fresh), make([]byte, 512)...)), nil},
		"no VHD":               {url.Values{"format": {"vhd"}}, fresh[:4096], nil},
	} {
		vdi := c.filled(pool, sr, old)
		test.query.Set("vdi", vdi)
		response, answer, task := c.exchange(http.MethodPut, pool.Address(), "/import_raw_vdi", test.query, test.body)
		if response.StatusCode != http.StatusOK || response.Header.Get("task-id") == "" || response.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %s %v", name, response.Status, response.Header)
		}
		if test.want == nil {
			if info := errorInfo(task); !slices.Equal(info, []string{"VDI_IO_ERROR", "Device I/O errors"}) ||
				!bytes.HasPrefix(answer, []byte("HTTP/1.1 500 Internal Error\r\n")) || !bytes.Contains(answer, []byte("VDI_IO_ERROR: [ Device I/O errors ]")) {
				t.Errorf("%s: task %q, late answer %q", name, info, answer)
			}
		} else if task["result"] != "<value>"+vdi+"</value>" || len(answer) > 0 || !bytes.Equal(read(t, c.path(pool, vdi)), test.want) {
			t.Errorf("%s: %v, or another content", name, task)
		}
		if vbds := c.list("VDI.get_VBDs", vdi); len(vbds) != 0 {
			t.Errorf("%s: left attached", name)
		}
	}
}

// An SR instead of a VDI: one is made, as large as the body.
func TestImportRawIntoAnSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "shared", Shared: true, Capacity: 16 * mib}, {Name: "thick", Type: "lvm", Capacity: 4 * mib, Garbage: true}}})
	c := connect(t, pool)
	content := bytes.Repeat([]byte("x"), 3*mib)
	_, _, task := c.exchange(http.MethodPut, pool.Address(), "/import_raw_vdi", url.Values{"sr_uuid": {c.text("SR.get_uuid", c.one("SR", "shared"))}}, content)
	vdi := c.one("VDI", "Imported VDI")
	if task["result"] != "<value>"+vdi+"</value>" || !bytes.HasPrefix(read(t, c.path(pool, vdi)), content) || fmt.Sprint(c.call("VDI.get_virtual_size", vdi)) != fmt.Sprint(4*mib) {
		t.Errorf("%v", task)
	}
	response, _, task := c.exchange(http.MethodPut, pool.Address(), "/import_raw_vdi", url.Values{"sr_id": {c.one("SR", "thick")}}, append(content, content...))
	if info := errorInfo(task); response.StatusCode != 400 || info[0] != "SR_BACKEND_FAILURE_44" {
		t.Errorf("%s, task %q", response.Status, info)
	}
	// On a raw SR, whose new volumes are not zero, the tool writes no VHD.
	raw := c.newVDI(c.one("SR", "thick"), 2*mib)
	_, _, task = c.exchange(http.MethodPut, pool.Address(), "/import_raw_vdi", url.Values{"vdi": {raw}, "format": {"vhd"}}, vhdOf(t, vhd.Disk{Size: mib}, nil, nil))
	if info := errorInfo(task); !slices.Equal(info, []string{"VDI_IO_ERROR", "Device I/O errors"}) {
		t.Errorf("%q", info)
	}
}

func TestRawRefusals(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "local", Host: 1}, {Name: "unplugged"}}})
	c := connect(t, pool)
	vdi, local, lost := c.newVDI(c.one("SR", "shared"), 2*mib), c.newVDI(c.one("SR", "local"), 2*mib), c.newVDI(c.one("SR", "unplugged"), 2*mib)
	c.call("PBD.unplug", c.list("SR.get_PBDs", c.one("SR", "unplugged"))[0])
	const put, get = "/import_raw_vdi", "/export_raw_vdi"
	bad := `Db_exn.Read_missing_uuid("VDI", "", "OpaqueRef:bad")`
	denied := func(action, text string) []string { return []string{"RBAC_PERMISSION_DENIED", "http/" + action, text} }
	for name, test := range map[string]struct {
		path   string
		query  url.Values
		change func(*http.Request)
		status int
		body   string // in the answer
		info   []string
	}{
		"import, format":    {put, url.Values{"vdi": {vdi}, "format": {"zip"}}, nil, 404, "", []string{"INTERNAL_ERROR", "Unknown format zip"}},
		"export, format":    {get, url.Values{"vdi": {vdi}, "format": {"zip"}}, nil, 404, "", []string{"INTERNAL_ERROR", "Unknown format zip"}},
		"import, bad VDI":   {put, url.Values{"vdi": {"OpaqueRef:bad"}}, nil, 500, bad, denied("put_import_raw_vdi", "INTERNAL_ERROR: [ "+bad+" ]")},
		"export, bad VDI":   {get, url.Values{"vdi": {"OpaqueRef:bad"}}, nil, 500, bad, denied("get_export_raw_vdi", "INTERNAL_ERROR: [ "+bad+" ]")},
		"export, no VDI":    {get, url.Values{}, nil, 500, "Missing vdi query parameter", denied("get_export_raw_vdi", `INTERNAL_ERROR: [ Failure("Missing vdi query parameter") ]`)},
		"export, bad base":  {get, url.Values{"vdi": {vdi}, "base": {"OpaqueRef:bad"}, "format": {"vhd"}}, nil, 200, bad, []string{"INTERNAL_ERROR", bad}},
		"import, no PBD":    {put, url.Values{"vdi": {lost}}, nil, 400, "NO_HOSTS_AVAILABLE: [  ]", []string{"NO_HOSTS_AVAILABLE"}},
		"export, no PBD":    {get, url.Values{"vdi": {lost}}, nil, 500, "NO_HOSTS_AVAILABLE: [  ]", denied("get_export_raw_vdi", "NO_HOSTS_AVAILABLE: [  ]")},
		"chunked VHD":       {put, url.Values{"vdi": {vdi}, "format": {"vhd"}, "chunked": {"1"}}, nil, 404, "", []string{"INTERNAL_ERROR", "Cannot handle chunked VHD"}},
		"VHD into an SR":    {put, url.Values{"sr_id": {c.one("SR", "shared")}, "format": {"vhd"}}, nil, 400, "", []string{"INTERNAL_ERROR", "Importing a VHD directly into an SR not yet supported"}},
		"transfer encoding": {put, url.Values{"vdi": {vdi}}, func(r *http.Request) { r.ContentLength = -1 }, 404, "", []string{"INTERNAL_ERROR", "Cannot handle encoding: chunked"}},
		"bad session":       {put, url.Values{"vdi": {vdi}}, func(r *http.Request) { r.Header.Set("Cookie", "session_id=x") }, 401, "401 unauthorised", []string{"SESSION_AUTHENTICATION_FAILED"}},
	} {
		method := map[string]string{put: http.MethodPut, get: http.MethodGet}[test.path]
		response, answer, task := c.exchange(method, pool.Address(), test.path, test.query, []byte("ten bytes."), func(r *http.Request) {
			if test.change != nil {
				test.change(r)
			}
		})
		text := strings.NewReplacer("&#34;", `"`, "&quot;", `"`).Replace(string(answer))
		if info := errorInfo(task); response.StatusCode != test.status || !strings.Contains(text, test.body) || (test.body == "") != (text == "") || !slices.Equal(info, test.info) {
			t.Errorf("%s: %s %q, task %q", name, response.Status, text, info)
		}
	}
	// Neither a VDI nor an SR: the status, then nothing.
	task := c.text("task.create", "import", "")
	connection := c.open(pool, "PUT", put, url.Values{"task_id": {task}}, 10)
	if got := head(t, connection); got != "HTTP/1.1 400 Bad Request" {
		t.Errorf("%s", got)
	}
	if info := errorInfo(c.finished(task)); !slices.Equal(info, []string{"VDI_MISSING"}) {
		t.Errorf("%q", info)
	}
	// A VDI of another host: the client is sent there, and the pool's session is taken there.
	for _, path := range []string{put, get} {
		response, _ := c.put(pool.Address(), url.Values{"session_id": {c.session}, "vdi": {local}}, nil, 0, func(r *http.Request) {
			r.URL.Path, r.Method = path, map[string]string{put: "PUT", get: "GET"}[path]
		})
		location, err := response.Location()
		if err != nil || response.StatusCode != http.StatusFound || location.Host != pool.Addresses()[1] || location.Path != path || location.Query().Get("vdi") != local {
			t.Errorf("%s, %v", response.Status, location)
		}
	}
	other := dial(t, pool.Addresses()[1], pool.Fingerprints()[1])
	task = c.text("task.create", "export", "")
	other.put(pool.Addresses()[1], url.Values{"session_id": {c.session}, "vdi": {local}, "task_id": {task}}, nil, 0, func(r *http.Request) { r.URL.Path, r.Method = get, "GET" })
	if record := c.finished(task); record["status"] != "success" || record["result"] != "" {
		t.Errorf("%v", record)
	}
	for method, want := range map[string]int{"HEAD": 501, "POST": 500, "PUT": 403} {
		response, _ := c.put(pool.Address(), nil, nil, 0, func(r *http.Request) { r.URL.Path, r.Method = get, method })
		if response.StatusCode != want || method == "HEAD" && response.ContentLength != 106 {
			t.Errorf("%s: %s, %d bytes", method, response.Status, response.ContentLength)
		}
	}
	if files, err := filepath.Glob(filepath.Join(pool.Dir(), "*", "*.raw")); err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestExportRaw(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	old := make([]byte, 8*mib)
	copy(old[3*mib:], "second block")
	copy(old[8*mib-1:], "l")
	base := c.filled(pool, sr, old)
	fresh := slices.Clone(old)
	copy(fresh[5:], "first block")
	clear(fresh[8*mib-1:]) // zeroed: a difference, too
	vdi := c.filled(pool, sr, fresh)

	export := func(query url.Values) (*http.Response, []byte) {
		t.Helper()
		response, answer, task := c.exchange(http.MethodGet, pool.Address(), "/export_raw_vdi", query, nil)
		if response.StatusCode != http.StatusOK || task["status"] != "success" || task["result"] != "" || response.ContentLength != -1 {
			t.Errorf("%v: %s, %v", query, response.Status, task)
		}
		return response, answer
	}
	uuid := c.text("VDI.get_uuid", vdi)
	response, answer := export(url.Values{"vdi": {uuid}})
	if !bytes.Equal(answer, fresh) || response.Header.Get("Content-Type") != "application/octet-stream" ||
		response.Header.Get("Content-Disposition") != `attachment; filename="`+uuid+`.raw"` {
		t.Errorf("%v, or another content", response.Header)
	}
	for name, test := range map[string]struct {
		base   string
		blocks []int64
	}{"whole": {"", []int64{0, 1}}, "difference": {base, []int64{0, 3}}, "by uuid": {c.text("VDI.get_uuid", base), []int64{0, 3}}, "to itself": {vdi, nil}} {
		query := url.Values{"vdi": {vdi}, "format": {"vhd"}}
		if test.base != "" {
			query.Set("base", test.base)
		}
		response, answer := export(query)
		if response.Header.Get("Content-Type") != "application/vhd" || response.Header.Get("Content-Disposition") != `attachment; filename="`+uuid+`.vhd"` {
			t.Errorf("%v", response.Header)
		}
		image, err := vhd.NewReader(bytes.NewReader(answer), int64(len(answer)))
		if err != nil {
			t.Fatal(err)
		}
		d := image.Disk()
		if parent := d.Parent; d.Size != 8*mib || (parent != nil) != (test.base != "") || parent != nil && (parent.ID == d.ID || parent.Locator != "file://"+parent.Name) {
			t.Errorf("%s: %+v, parent %+v", name, d, parent)
		}
		got := map[int64]bool{}
		for {
			extent, err := image.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			got[extent.Offset/vhd.BlockSize] = true
			if !bytes.Equal(extent.Data, fresh[extent.Offset:][:len(extent.Data)]) {
				t.Errorf("%s: another content at %d", name, extent.Offset)
			}
		}
		for _, block := range test.blocks {
			if !got[block] {
				t.Errorf("%s: block %d is missing", name, block)
			}
		}
		if len(got) != len(test.blocks) {
			t.Errorf("%s: blocks %v", name, got)
		}
		if name == "difference" { // put over a copy of the base it makes the disk
			over := c.filled(pool, sr, old)
			if _, _, task := c.exchange(http.MethodPut, pool.Address(), "/import_raw_vdi", url.Values{"vdi": {over}, "format": {"vhd"}}, answer); task["status"] != "success" {
				t.Errorf("%v", task)
			}
			if !bytes.Equal(read(t, c.path(pool, over)), fresh) {
				t.Error("the difference does not lead to the disk")
			}
		}
	}
	raw := c.newVDI(c.one("SR", "raw"), 2*mib)
	_, _, task := c.exchange(http.MethodGet, pool.Address(), "/export_raw_vdi", url.Values{"vdi": {raw}, "base": {base}, "format": {"vhd"}}, nil)
	if info := errorInfo(task); len(info) != 2 || !strings.Contains(info[1], "Cannot compute differences on non-VHD images") {
		t.Errorf("%q", info)
	}
}

// While xapi reads or writes a VDI, the control domain has it.
func TestRawHoldsTheDisk(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 4*mib)
	task := c.text("task.create", "import", "")
	connection := c.open(pool, "PUT", "/import_raw_vdi", url.Values{"vdi": {vdi}, "task_id": {task}}, 4*mib)
	if got := head(t, connection); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	if _, err := connection.Write(make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a quarter", func() bool { return fmt.Sprint(c.call("task.get_progress", task)) == "0.25" })
	vbds := c.list("VDI.get_VBDs", vdi)
	if len(vbds) != 1 {
		t.Fatalf("%d VBDs", len(vbds))
	}
	vbd := c.record("VBD", vbds[0])
	if vbd["currently_attached"] != true || vbd["mode"] != "RW" || c.call("VM.get_is_control_domain", vbd["VM"]) != true || vbd["device"] != "xvda" {
		t.Errorf("%v", vbd)
	}
	c.refuse("VDI_IN_USE", []string{vdi, "destroy"}, "VDI.destroy", vdi)
	_, answer, second := c.exchange(http.MethodGet, pool.Address(), "/export_raw_vdi", url.Values{"vdi": {vdi}}, nil)
	if info := errorInfo(second); !slices.Equal(info, []string{"VDI_IN_USE", vdi}) || !bytes.HasPrefix(answer, []byte("HTTP/1.1 500 ")) {
		t.Errorf("%q %q", info, answer)
	}
	c.call("task.cancel", task)
	if record := c.finished(task); record["status"] != "cancelled" {
		t.Errorf("%v", record)
	}
	eventually(t, "the detach", func() bool { return len(c.list("VDI.get_VBDs", vdi)) == 0 })
	// A body that ends early is an error, one that has no end in sight is waited for.
	for _, told := range []int64{-1, 4 * mib} {
		task = c.text("task.create", "import", "")
		connection = c.open(pool, "PUT", "/import_raw_vdi", url.Values{"vdi": {vdi}, "task_id": {task}}, told)
		head(t, connection)
		if _, err := connection.Write(make([]byte, mib)); err != nil {
			t.Fatal(err)
		}
		if err := connection.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if info := errorInfo(c.finished(task)); !slices.Equal(info, []string{"VDI_IO_ERROR", "Device I/O errors"}) {
			t.Errorf("%q", info)
		}
	}
	// A cut in the middle of a download is a failure of the task.
	pool.Fault(xapisim.Rule{Method: "http/get_export_raw_vdi", Count: 1, CutAfter: mib})
	_, answer, second = c.exchange(http.MethodGet, pool.Address(), "/export_raw_vdi", url.Values{"vdi": {vdi}}, nil)
	if len(answer) > mib || second["status"] != "failure" {
		t.Errorf("%d bytes, %v", len(answer), second)
	}
}
