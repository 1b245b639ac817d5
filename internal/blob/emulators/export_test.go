package emulators

// Dir is where an emulator keeps its data.
func (e *Emulator) Dir() string { return e.dir }
