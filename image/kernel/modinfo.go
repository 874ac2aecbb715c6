package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"
)

// maxModinfo bounds the section; the largest in Debian's kernels, full of aliases, has some 100 KiB.
const maxModinfo = 4 << 20

type modinfo struct {
	depends     []string
	softDepends []string
}

// readModinfo reads what a module says of itself: NUL-ended 'key=value' strings in the section .modinfo
// (include/linux/moduleparam.h, modpost).
func readModinfo(module []byte) (modinfo, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return modinfo{}, fmt.Errorf("not a module: %w", err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return modinfo{}, errors.New("not a module: it has no section .modinfo")
	}
	if section.Size > maxModinfo {
		return modinfo{}, fmt.Errorf("its .modinfo has %d bytes; at most %d are expected", section.Size, maxModinfo)
	}
	text, err := section.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("its .modinfo: %w", err)
	}
	return parseModinfo(text), nil
}

func parseModinfo(text []byte) modinfo {
	var info modinfo
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					info.depends = append(info.depends, normal(name))
				}
			}
		case "softdep": // 'pre: a b post: c'; what comes after the module is its own affair
			before, _, _ := strings.Cut(value, "post:")
			for _, name := range strings.Fields(strings.ReplaceAll(before, "pre:", " ")) {
				info.softDepends = append(info.softDepends, normal(name))
			}
		}
	}
	return info
}
