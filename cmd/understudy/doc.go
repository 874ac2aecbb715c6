// Command understudy is the orchestrator: the one program that an administrator runs. 'understudy help' lists its commands,
// 'understudy help exit-codes' its exit codes. Package orchestrator/cli holds them all.
package main
