package xapisim

import (
	"bytes"
	"io"

	"github.com/understudy-dr/understudy/image/xva"
)

// ExportMetadata writes what /export_metadata would send.
func (p *Pool) ExportMetadata(w io.Writer, ref string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	table := &exportTable{Pool: p, powerState: true, snapshots: true, ids: map[string]string{}}
	table.addVM(p.db.find("VM", ref))
	archive, err := xva.NewWriter(w, p.version(), table.objects(), xva.XXH64)
	if err != nil {
		return err
	}
	return archive.Close()
}

// Import does what PUT /import would, without HTTP. What was imported is removed again.
func (p *Pool) Import(file *bytes.Buffer, sr string, restore, force bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &call{Pool: p, ctx: p.ctx, client: p.ctx, task: newRef()}
	var into *object
	for _, candidate := range p.db.all("SR") {
		if candidate.text("name_label") == sr {
			into = candidate
		}
	}
	i := &importation{call: c, sr: into, made: map[string]*object{}, restore: restore, force: force}
	_, err := i.importXVA(file)
	if err == nil || force {
		i.undo()
	}
	return err
}

// Objects counts the objects of all classes.
func (p *Pool) Objects() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, table := range p.db.tables {
		n += len(table)
	}
	return n
}
