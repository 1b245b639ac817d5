package phone_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

var noon = time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)

// published is what an export says about the key of a phone's day.
func published(t *testing.T, p *phone.Phone, day exposure.Day, with ...func(*exposure.Exposure)) exposure.Exposure {
	t.Helper()
	key, ok := p.Key(day)
	if !ok {
		t.Fatalf("%s has no key on day %d", p.Name, day)
	}
	e := exposure.Exposure{Key: key, Start: day.Start(), Period: exposure.IntervalsPerDay, Report: exposure.Confirmed}
	for _, change := range with {
		change(&e)
	}
	return e
}

func TestConsider(t *testing.T) {
	t.Parallel()
	met := exposure.IntervalOf(noon)
	for _, tc := range []struct {
		why    string
		with   func(*exposure.Exposure)
		warned bool
	}{
		{"the key of somebody it met", func(*exposure.Exposure) {}, true},
		{"a key that nobody it met has", func(e *exposure.Exposure) { e.Key[0] ^= 1 }, false},
		{"the key's period ended before they met", func(e *exposure.Exposure) { e.Period = int32(met - e.Start) }, false},
		{"the key's period ends just after they met", func(e *exposure.Exposure) { e.Period = int32(met-e.Start) + 1 }, true},
		{"the key's period begins after they met", func(e *exposure.Exposure) { e.Start = met + 1; e.Period = 10 }, false},
		{"the report was withdrawn", func(e *exposure.Exposure) { e.Report = exposure.Revoked }, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			ill, well := phone.New("ill"), phone.New("well")
			phone.Meet(met, ill, well)
			well.Consider(published(t, ill, met.Day(), tc.with))
			if got := well.Warned(); got != tc.warned {
				t.Errorf("warned: %t, want %t", got, tc.warned)
			}
			ill.Consider(published(t, ill, met.Day(), tc.with))
			if ill.Warned() {
				t.Error("a phone is warned of its own key")
			}
		})
	}
}

// A replayed identifier is real but old: whoever sends it again must not
// frighten anybody.
func TestIdentifiersAreBelievedForTwoHours(t *testing.T) {
	t.Parallel()
	made := exposure.IntervalOf(noon)
	for _, tc := range []struct {
		why    string
		late   exposure.Interval
		warned bool
	}{
		{"at once", 0, true},
		{"two hours late: clocks differ", 12, true},
		{"two hours early: clocks differ", -12, true},
		{"more than two hours late", 13, false},
		{"more than two hours early", -13, false},
		{"the next day", 144, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			ill, well := phone.New("ill"), phone.New("well")
			well.Hear(ill.Broadcast(made), made+tc.late)
			well.Consider(published(t, ill, made.Day()))
			if got := well.Warned(); got != tc.warned {
				t.Errorf("warned: %t, want %t", got, tc.warned)
			}
		})
	}
}

func TestRevisedKeys(t *testing.T) {
	t.Parallel()
	met := exposure.IntervalOf(noon)
	ill, well := phone.New("ill"), phone.New("well")
	phone.Meet(met, ill, well)
	say := func(r exposure.Report) {
		well.Consider(published(t, ill, met.Day(), func(e *exposure.Exposure) { e.Report = r }))
	}

	say(exposure.Likely)
	if !well.Warned() {
		t.Fatal("not warned of a likely diagnosis")
	}
	say(exposure.Confirmed)
	if w := well.Warnings(); len(w) != 1 || w[0].Exposure.Report != exposure.Confirmed || w[0].Intervals != 1 {
		t.Errorf("after it was confirmed the warnings are %v, want one, confirmed, of one interval", w)
	}
	say(exposure.Revoked)
	if well.Warned() {
		t.Error("still warned after the diagnosis was withdrawn")
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	p := phone.New("p")
	today := exposure.DayOf(noon)
	p.Carry(today-20, today+1)
	var got []exposure.Day
	for _, k := range p.Keys(noon) {
		if k.Period != exposure.IntervalsPerDay {
			t.Errorf("period %d, want %d", k.Period, exposure.IntervalsPerDay)
		}
		got = append(got, exposure.Interval(k.Start).Day()-today)
	}
	want := []exposure.Day{-14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("days of the keys, from today (-want +got):\n%s", diff)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	met := exposure.IntervalOf(noon)
	ill, well := phone.New("ill"), phone.New("well")
	phone.Meet(met, ill, well)
	key := published(t, ill, met.Day())
	well.Consider(key)

	well.Forget(noon.Add(phone.Memory))
	if !well.Warned() {
		t.Error("the warning is gone on the last day on which it matters")
	}
	later := noon.Add(phone.Memory + 24*time.Hour)
	well.Forget(later)
	well.Consider(key)
	if well.Warned() || len(well.Keys(later)) != 0 {
		t.Error("a phone remembers for longer than it should")
	}
}
