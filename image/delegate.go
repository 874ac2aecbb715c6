package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// VersionFile holds the product's version, one line, below the module's root. 'make build' gives the same to both programs.
const VersionFile = "VERSION"

var versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9a-z.]+)?$`)

// readVersion reads the product's version.
func readVersion(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, VersionFile))
	if err != nil {
		return "", fmt.Errorf("image: the product's version: %w", err)
	}
	version := strings.TrimSpace(string(text))
	if !versionForm.MatchString(version) {
		return "", fmt.Errorf("image: %s holds %.100q; it is a version such as 1.2.3 or 1.2.3-rc.1", VersionFile, version)
	}
	return version, nil
}

// Root finds the module's root from the working directory.
func Root(ctx context.Context) (string, error) {
	output, err := goTool(ctx, ".", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	path := strings.TrimSpace(string(output))
	if filepath.Base(path) != "go.mod" {
		return "", errors.New("image: the working directory is in no Go module; run this in the product's source")
	}
	return filepath.Dir(path), nil
}

// buildDelegate compiles ./cmd/abd into a file: static, for any 64-bit machine, without paths, times or revisions, so that
// only the source and the toolchain decide its bytes.
func buildDelegate(ctx context.Context, root, version, output string) error {
	_, err := goTool(ctx, root, "build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", "-s -w -buildid= -X main.version="+version, "-o", output, "./cmd/abd")
	return err
}

// goTool runs the go command with nothing of the caller's own flags.
func goTool(ctx context.Context, dir string, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=")
	command.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("image: go %s: %w: %.4000s", arguments[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// delegateComponents lists what is linked into the delegate: Go itself and modules, with their licences.
func delegateComponents(ctx context.Context, root, program string) ([]Component, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	components := []Component{{Name: "go", Version: info.GoVersion, Licence: "BSD-3-Clause", Kind: "toolchain"}}
	if len(info.Deps) == 0 {
		return components, nil
	}
	arguments := []string{"list", "-m", "-json=Path,Dir"}
	for _, module := range info.Deps {
		arguments = append(arguments, module.Path)
	}
	output, err := goTool(ctx, root, arguments...)
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var module struct{ Path, Dir string }
		if err := decoder.Decode(&module); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("image: go list: %w", err)
		}
		dirs[module.Path] = module.Dir
	}
	for _, module := range info.Deps {
		licence, err := moduleLicence(dirs[module.Path])
		if err != nil {
			return nil, err
		}
		components = append(components, Component{Name: module.Path, Version: module.Version, Licence: licence, Kind: "go-module", Digest: module.Sum})
	}
	return components, nil
}
