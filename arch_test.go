package mtm_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The import rules of docs/design.md, section 7, as a failing test.

// layers names the folders of the module and their layer; the longest prefix counts. Two folders of layer 3 may
// import each other only if they have the same owner.
var layers = []struct {
	dir   string
	layer int
	owner string
}{
	{"", 0, "mtm"},
	{"generations", 1, "generations"},
	{"proto", 1, "proto"},
	{"coordinator", 2, "coordinator"},
	{"cert", 2, "cert"},
	{"coordinator/journal", 3, "journal"},
	{"dmq", 3, "dmq"},
	{"logrep", 3, "logrep"},
	{"sql", 3, "sql"},
	{"referee", 3, "referee"},
	{"cmd", 4, "cmd"},
	{"testcluster", 4, "testcluster"},
}

// pure are the folders that decide: no clock, no socket, no goroutine's tools, no chance, no log.
var pure = []string{"", "generations", "coordinator"}

var impure = []string{"time", "net", "os", "sync", "log", "math/rand", "io/ioutil", "syscall", "runtime", "context"}

const module = "mtm"

func TestImportsFollowTheLayers(t *testing.T) {
	for dir, imports := range importsOfModule(t) {
		layer, owner := layerOf(t, dir)
		for _, imp := range imports {
			to, inside := insideModule(imp)
			if !inside || to == dir {
				continue
			}
			toLayer, toOwner := layerOf(t, to)
			switch {
			case toOwner == owner: // one part, several folders
			case toLayer > layer:
				t.Errorf("%s (layer %d) imports %s (layer %d)", module+"/"+dir, layer, imp, toLayer)
			case layer == 3 && toLayer == 3:
				t.Errorf("%s imports %s: packages of layer 3 never import each other", module+"/"+dir, imp)
			}
		}
	}
}

func TestDecidingCodeIsPure(t *testing.T) {
	all := importsOfModule(t)
	for _, dir := range pure {
		for _, imp := range all[dir] {
			for _, bad := range impure {
				if imp == bad || strings.HasPrefix(imp, bad+"/") {
					t.Errorf("%s imports %s", path.Join(module, dir), imp)
				}
			}
		}
	}
}

func TestVocabularyImportsStandardLibraryOnly(t *testing.T) {
	for _, imp := range importsOfModule(t)[""] {
		require.NotContains(t, imp, ".", "package mtm imports %s", imp)
		_, inside := insideModule(imp)
		require.False(t, inside, "package mtm imports %s", imp)
	}
}

func insideModule(imp string) (dir string, inside bool) {
	if imp == module {
		return "", true
	}
	return strings.CutPrefix(imp, module+"/")
}

func layerOf(t *testing.T, dir string) (int, string) {
	t.Helper()
	best := -1
	for i, l := range layers {
		if dir == l.dir || l.dir != "" && strings.HasPrefix(dir, l.dir+"/") {
			if best < 0 || len(l.dir) > len(layers[best].dir) {
				best = i
			}
		}
	}
	if best < 0 {
		t.Fatalf("%s has no layer: name it in arch_test.go", dir)
	}
	return layers[best].layer, layers[best].owner
}

// importsOfModule lists, per folder, what its files import; tests and files with the build tag deps left out.
func importsOfModule(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(src), "//go:build deps") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		if dir == "." {
			dir = ""
		}
		for _, spec := range file.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !slices.Contains(all[dir], imp) {
				all[dir] = append(all[dir], imp)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, all["coordinator"])
	return all
}
