package main

import (
	"crypto/rand"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/system"
)

const publishPath = "/v1/publish"

// uploads writes so many publish requests down, each of a phone of its own with
// a certificate for its fourteen keys.
func (s *stage) uploads(n int) ([][]byte, error) {
	requests := make([][]byte, n)
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i := range requests {
		group.Go(func() error {
			up, err := s.upload()
			if err != nil {
				return err
			}
			requests[i] = written(publishPath, "", up.Body)
			return nil
		})
	}
	return requests, group.Wait()
}

func (s *stage) upload() (*phone.Upload, error) {
	const risk, onsetDays = 2, 4
	now := s.Now()
	onset := exposure.IntervalOf(now.Add(-onsetDays * 24 * time.Hour))
	d := phone.Diagnosis{Report: exposure.Confirmed, Onset: onset, Risk: risk}
	return phone.New("").PrepareKeys(system.AppUS, s.Authority, d, fortnight(exposure.DayOf(now)), now)
}

// fortnight is a key for each of the fourteen days before today.
func fortnight(today exposure.Day) []exposure.Submitted {
	keys := make([]exposure.Submitted, uploadKeys)
	for i := range keys {
		var key exposure.Key
		_, _ = rand.Read(key[:]) // never fails: see crypto/rand
		keys[i] = exposure.Submitted{
			Text:   key.Base64(),
			Start:  int32((today - exposure.Day(i+1)).Start()),
			Period: exposure.IntervalsPerDay,
		}
	}
	return keys
}
