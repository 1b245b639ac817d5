package system

import "syscall"

// orphansDie makes a process end when the thread that started it does: nothing
// is left behind, even when we are killed ourselves.
func orphansDie(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
