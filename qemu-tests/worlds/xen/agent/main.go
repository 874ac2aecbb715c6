package main

import (
	"fmt"
	"os"
)

func main() {
	if script, ok := scripts[os.Args[0]]; ok {
		if err := runScript(script, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, os.Args[0]+":", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "agent: it is PID 1 of a dom0 and runs nowhere else")
		os.Exit(2)
	}
	fmt.Println("agent:", live()) // PID 1 ends, the kernel panics, and the world sees its QEMU end
	os.Exit(1)
}

// live brings dom0 up and serves the world until the machine is switched off. It returns only with an error.
func live() error {
	if err := boot(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	s, err := newServer(port)
	if err != nil {
		return err
	}
	fmt.Println("agent: ready")
	return s.serve()
}
