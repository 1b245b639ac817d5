package imports

// SetPageSize makes pages so small that a file has many.
func (s *Service) SetPageSize(keys int) { s.pageSize = keys }
