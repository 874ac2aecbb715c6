package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Write makes a kernel's tree. Modules maps paths below lib/modules/RELEASE to the text of their .modinfo.
func Write(tree, release string, image []byte, builtin []string, modules map[string]string) error {
	base := filepath.Join(tree, "lib/modules", release)
	files := map[string][]byte{
		filepath.Join(tree, "boot/vmlinuz-"+release): image,
		filepath.Join(base, "modules.builtin"):       []byte(strings.Join(append(builtin, ""), "\n")),
	}
	for path, modinfo := range modules {
		files[filepath.Join(base, path)] = Module(modinfo)
	}
	errs := []error{os.MkdirAll(filepath.Join(base, "kernel"), 0o755)}
	for path, content := range files {
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
	}
	return errors.Join(errs...)
}

// Module is a relocatable ELF file with a section .modinfo.
func Module(modinfo string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	header.Shoff = uint64(64 + len(modinfo) + len(names))
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names)), Addralign: 1},
	}
	var file bytes.Buffer
	for _, part := range []any{header, []byte(modinfo), []byte(names), sections} {
		_ = binary.Write(&file, binary.LittleEndian, part) // into memory, of fixed-size types
	}
	return file.Bytes()
}
