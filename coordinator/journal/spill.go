package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// SpillWriter is a spill file that is being written. Commit makes it durable; Abort removes it, and does nothing after
// Commit. It is an alias of its shape, so that drivers that cannot import this package can name the same type.
type SpillWriter = interface {
	io.Writer
	Name() string
	Commit() error
	Abort() error
}

// Spills is the directory of spill files. What is committed stays until Remove; a spill that no record names is for the
// caller to find, by Names, and to remove.
type Spills struct{ dir string }

const spillName = 32 // hex digits

// openSpills removes what a crash left unfinished.
func openSpills(dir string) (*Spills, error) {
	left, err := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	return &Spills{dir: dir}, nil
}

// Create begins a spill file under a name that nobody had or will have.
func (s *Spills) Create() (SpillWriter, error) {
	name := randomName()
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: spill: %w", err)
	}
	return &spillFile{f: f, name: name, path: path}, nil
}

// Open reads a committed spill file. One that is not there wraps os.ErrNotExist.
func (s *Spills) Open(name string) (io.ReadSeekCloser, error) {
	if err := checkSpill(name); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, fmt.Errorf("journal: spill: %w", err)
	}
	return f, nil
}

// Remove deletes a committed spill file; one that is not there is no error.
func (s *Spills) Remove(name string) error {
	if err := checkSpill(name); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("journal: spill: %w", err)
	}
	return nil
}

// Names lists the committed spill files.
func (s *Spills) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("journal: spill: %w", err)
	}
	var names []string
	for _, e := range entries {
		if checkSpill(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// checkSpill keeps names from leading elsewhere: they may come from a peer.
func checkSpill(name string) error {
	if len(name) != spillName || strings.Trim(name, "0123456789abcdef") != "" {
		return fmt.Errorf("journal: spill %q: %w", name, os.ErrNotExist)
	}
	return nil
}

// spillFile implements SpillWriter.
type spillFile struct {
	f    *os.File
	name string
	path string
	done bool
}

func (w *spillFile) Write(b []byte) (int, error) { return w.f.Write(b) }

func (w *spillFile) Name() string { return w.name }

func (w *spillFile) Commit() error {
	if w.done {
		return os.ErrClosed
	}
	err := errors.Join(w.f.Sync(), w.f.Close())
	if err == nil {
		err = os.Rename(w.path+tmpSuffix, w.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(w.path))
	}
	w.done = true
	if err != nil {
		os.Remove(w.path + tmpSuffix)
		return fmt.Errorf("journal: spill: %w", err)
	}
	return nil
}

func (w *spillFile) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	if err := errors.Join(w.f.Close(), os.Remove(w.path+tmpSuffix)); err != nil {
		return fmt.Errorf("journal: spill: %w", err)
	}
	return nil
}
