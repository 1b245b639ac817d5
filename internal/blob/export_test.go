package blob

import "os"

// StillMeans tells whether a name still means an open file.
func (f *Folder) StillMeans(name string, file *os.File) (bool, error) {
	_, ok, err := f.attributes(name, file)
	return ok, err
}
