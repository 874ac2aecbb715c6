package grubtest

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Loader is the path of the C library's loader below a tree, which runs grub-mkimage.
const Loader = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

// The answer has no word of where the tree is: builds in different places have to be equal.
const script = `#!/bin/sh
# Runs with an empty PATH: built-ins alone.
tree=${0%/lib/x86_64-linux-gnu/*}
rest=
while [ $# -gt 0 ]; do
	case $1 in
	-o) output=$2; shift ;;
	-c) config=$2; shift ;;
	*:*) first=${1%%:*}; second=${1#*:}; rest="$rest ${first#$tree}:${second#$tree}" ;;
	*) rest="$rest ${1#$tree}" ;;
	esac
	shift
done
{
	while IFS= read -r line; do echo "$line"; done <"$config"
	echo "arguments$rest"
} >"$output"
`

// Files of the tree, by path.
func Files() map[string]string {
	return map[string]string{
		Loader:                          script,
		"usr/bin/grub-mkimage":          "the real one is an ELF file",
		"usr/lib/grub/i386-pc/boot.img": string(make([]byte, 512)),
	}
}

// Write writes them below dir.
func Write(dir string) error {
	files := Files()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(files[name]), 0o755))
	}
	return errors.Join(errs...)
}
