package serve_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

func TestShare(t *testing.T) {
	t.Parallel()
	type ask = federationpb.FederationFetchRequest
	for _, tc := range []struct {
		why              string
		include, exclude []string
		ask              *ask
		want             store.Share
	}{
		{"asking for nothing in particular is asking for all that is allowed", []string{"US", "CA"}, nil, &ask{}, store.Share{Regions: []string{"CA", "US"}}},
		{"what is asked and allowed", []string{"CA", "US"}, nil, &ask{IncludeRegions: []string{"US", "MX"}}, store.Share{Regions: []string{"US"}}},
		{"asked and not allowed: nothing, and never everything", []string{"CA", "US"}, nil, &ask{IncludeRegions: []string{"MX"}}, store.Share{}},
		{"an empty word is not the absence of words", []string{"CA", "US"}, nil, &ask{IncludeRegions: []string{""}}, store.Share{}},
		{"nothing allowed", nil, nil, &ask{}, store.Share{}},
		{"nothing allowed, whatever is asked", nil, nil, &ask{IncludeRegions: []string{"US"}}, store.Share{}},
		{"excluded by us wins over included by us", []string{"CA", "US"}, []string{"US"}, &ask{}, store.Share{Regions: []string{"CA"}, Excluded: []string{"US"}}},
		{"and over asked", []string{"CA", "US"}, []string{"US"}, &ask{IncludeRegions: []string{"US"}}, store.Share{Excluded: []string{"US"}}},
		{"both exclude", []string{"CA", "US"}, []string{"MX"}, &ask{ExcludeRegions: []string{"NZ", "MX"}}, store.Share{Regions: []string{"CA", "US"}, Excluded: []string{"MX", "NZ"}}},
		{
			"excluded by whoever asked for it: a key of the region has an excluded one",
			[]string{"CA", "US"},
			nil, &ask{IncludeRegions: []string{"US"}, ExcludeRegions: []string{"US"}},
			store.Share{Regions: []string{"US"}, Excluded: []string{"US"}},
		},
		{"regions are the same in either case", []string{"ca"}, []string{"mx"}, &ask{IncludeRegions: []string{"Ca"}, ExcludeRegions: []string{"nz"}}, store.Share{Regions: []string{"CA"}, Excluded: []string{"MX", "NZ"}}},
		{"the other filters", []string{"US"}, nil, &ask{OnlyTravelers: true, OnlyLocalProvenance: true}, store.Share{Regions: []string{"US"}, OnlyTravelers: true, OnlyLocal: true}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			peer := store.Peer{AllowConfig: store.AllowConfig{IncludeRegions: tc.include, ExcludeRegions: tc.exclude}, Origin: 3}
			tc.want.NotFrom = 3
			if diff := cmp.Diff(tc.want, serve.ShareOf(peer, tc.ask), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
