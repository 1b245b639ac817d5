package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"enkeyserver/internal/database"
)

// machine tells where the figures come from: without that they mean nothing.
func (s *stage) machine(ctx context.Context) (facts []fact, err error) {
	facts = []fact{
		{"processor", fmt.Sprintf("%s, %d cores", processor(), runtime.NumCPU())},
		{"memory", memory()},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"Go", runtime.Version()},
	}
	version, err := s.setting(ctx, "server_version")
	if err != nil {
		return nil, err
	}
	settings := []string{version}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "wal_sync_method"} {
		value, err := s.setting(ctx, name)
		if err != nil {
			return nil, err
		}
		settings = append(settings, name+" "+value)
	}
	facts = append(facts, fact{"PostgreSQL", strings.Join(settings, ", ")})
	return append(facts, fact{"load", "average of the last minute before the start: " + firstWord(firstLine("/proc/loadavg"))}), nil
}

func (s *stage) setting(ctx context.Context, name string) (string, error) {
	value, _, err := database.One[string](ctx, s.Store, `SELECT current_setting($1)`, name)
	return value, err
}

func processor() string {
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
		}
	}
	return runtime.GOARCH
}

func memory() string {
	kb, err := strconv.ParseFloat(firstWord(strings.TrimPrefix(firstLine("/proc/meminfo"), "MemTotal:")), 64)
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.1f GiB", kb/(1<<20))
}

func firstLine(file string) string {
	line, _, _ := strings.Cut(read(file), "\n")
	return line
}

func firstWord(text string) string {
	for word := range strings.FieldsSeq(text) {
		return word
	}
	return ""
}

// read gives a file, or nothing where there is none: another system than Linux
// leaves gaps in the description.
func read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(text)
}
