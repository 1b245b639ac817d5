package web

import (
	"fmt"
	"runtime"
	"strings"
)

// Panicked makes an error of what recover returned, with the place where it
// happened, innermost function first.
//
// It holds what is safe to log: functions and lines only, because a stack as
// the runtime prints it holds arguments too, and a key may be one; and of a
// value that is neither text nor an error only the type.
func Panicked(v any) error {
	words := fmt.Sprintf("a %T", v)
	switch v := v.(type) {
	case error:
		words = v.Error()
	case string:
		words = v
	}
	return fmt.Errorf("panic: %s at %s", words, strings.Join(callers(), " < "))
}

// callers names the functions below the panic that is being recovered.
func callers() []string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var stack []string
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			stack = append(stack, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
		if !more {
			return stack
		}
	}
}
