package publish

import "context"

// Refresh reads who may upload now.
func (s *Service) Refresh(ctx context.Context) error { return s.door.refresh(ctx) }
