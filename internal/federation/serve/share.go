package serve

import (
	"slices"

	"enkeyserver/internal/federation"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// shareOf is what a neighbour is told: of what it asks for, that which it is
// allowed. To ask for nothing in particular is to ask for all that is allowed.
// What either side excludes wins.
func shareOf(p store.Peer, ask *federationpb.FederationFetchRequest) store.Share {
	forbidden := federation.Regions(p.ExcludeRegions)
	regions := without(federation.Regions(p.IncludeRegions), forbidden)
	if asked := ask.GetIncludeRegions(); len(asked) > 0 {
		regions = both(regions, federation.Regions(asked))
	}
	return store.Share{
		Regions:       regions,
		Excluded:      federation.Regions(slices.Concat(forbidden, ask.GetExcludeRegions())),
		OnlyTravelers: ask.GetOnlyTravelers(),
		OnlyLocal:     ask.GetOnlyLocalProvenance(),
		NotFrom:       p.Origin,
	}
}

func without(list, unwanted []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(r string) bool { return slices.Contains(unwanted, r) })
}

func both(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(r string) bool { return !slices.Contains(b, r) })
}
