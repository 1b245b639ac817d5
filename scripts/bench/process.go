package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit in which Linux tells programs of processor time, whatever
// it counts in itself.
const tick = 10 * time.Millisecond

// stat is what the kernel says of a process.
type stat struct {
	parent         int
	own, forebears time.Duration // of itself; of its children that have ended
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name before the last bracket may hold anything.
	_, rest, _ := cutLast(string(text), ")")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("/proc/%d/stat is not as proc(5) says", pid)
	}
	var numbers [15]int
	for _, i := range []int{1, 11, 12, 13, 14} {
		if numbers[i], err = strconv.Atoi(fields[i]); err != nil {
			return stat{}, err
		}
	}
	return stat{
		parent:    numbers[1],
		own:       time.Duration(numbers[11]+numbers[12]) * tick,
		forebears: time.Duration(numbers[13]+numbers[14]) * tick,
	}, nil
}

func cutLast(text, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(text, sep); i >= 0 {
		return text[:i], text[i+len(sep):], true
	}
	return text, "", false
}

// processorTime is what a process has used of the processors so far.
func processorTime(pid int) (time.Duration, error) {
	s, err := readStat(pid)
	return s.own, err
}

// familyTime is what a process and its children have used, those that have
// ended included: PostgreSQL is one process a connection, and some more.
func familyTime(pid int) (time.Duration, error) {
	head, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	total := head.own + head.forebears
	others, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range others {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return 0, err
		}
		s, err := readStat(child)
		if errors.Is(err, os.ErrNotExist) || s.parent != pid {
			continue // it has ended just now, or is somebody else's
		}
		total += s.own
	}
	return total, nil
}

// resident is the memory that a process holds: now, and at most so far.
func resident(pid int) (now, peak float64, err error) {
	for line := range strings.Lines(read(fmt.Sprintf("/proc/%d/status", pid))) {
		name, value, _ := strings.Cut(line, ":")
		kb, err := strconv.ParseFloat(firstWord(value), 64)
		switch {
		case name == "VmRSS" && err == nil:
			now = kb / 1024
		case name == "VmHWM" && err == nil:
			peak = kb / 1024
		}
	}
	if now == 0 || peak == 0 {
		return 0, 0, fmt.Errorf("/proc/%d/status does not tell the memory of the process: is this Linux?", pid)
	}
	return now, peak, nil
}

// meter measures what processes use between two moments.
type meter struct {
	read  func() (time.Duration, error)
	begun time.Duration
}

func startMeter(read func() (time.Duration, error)) (meter, error) {
	begun, err := read()
	return meter{read, begun}, err
}

func (m meter) used() (time.Duration, error) {
	now, err := m.read()
	return now - m.begun, err
}
