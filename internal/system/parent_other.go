//go:build !linux

package system

import "syscall"

// orphansDie does nothing here: only Linux can end children with their parent.
func orphansDie(*syscall.SysProcAttr) {}
