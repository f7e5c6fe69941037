// Command doccheck reports exported names that have no doc comment: packages, functions, types,
// methods (also of interfaces), variables and constants. A comment on a group of variables or
// constants counts for its members. Tests, generated files, testdata and nested modules are left out.
//
//	go run ./scripts/doccheck [directory]
//
// The exit code is 1 if something was found. The form of the comments is staticcheck's business.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	findings, err := check(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "doccheck:", err)
		os.Exit(2)
	}
	for _, finding := range findings {
		fmt.Println(finding)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

// check walks the module at root and returns its findings as file:line: lines.
func check(root string) ([]string, error) {
	c := checker{fset: token.NewFileSet(), packages: map[string]*packageState{}}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path != root && skipDir(path, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		return c.file(path)
	})
	if err != nil {
		return nil, err
	}
	for _, p := range c.packages {
		if !p.documented {
			c.report(p.first, "package %s", p.name)
		}
	}
	slices.Sort(c.findings)
	return c.findings, nil
}

func skipDir(path, name string) bool {
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

type checker struct {
	fset     *token.FileSet
	packages map[string]*packageState // by directory
	findings []string
}

type packageState struct {
	name       string
	first      token.Pos // of the package clause in its first file
	documented bool
}

func (c *checker) report(pos token.Pos, format string, args ...any) {
	position := c.fset.Position(pos)
	what := fmt.Sprintf(format, args...)
	c.findings = append(c.findings, fmt.Sprintf("%s:%d: %s has no doc comment", position.Filename, position.Line, what))
}

func (c *checker) file(path string) error {
	file, err := parser.ParseFile(c.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	p := c.packages[filepath.Dir(path)]
	if p == nil {
		p = &packageState{name: file.Name.Name, first: file.Name.Pos()}
		c.packages[filepath.Dir(path)] = p
	}
	p.documented = p.documented || file.Doc != nil
	if ast.IsGenerated(file) || file.Name.Name == "main" {
		return nil
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			c.function(d)
		case *ast.GenDecl:
			c.group(d)
		}
	}
	return nil
}

// function wants a comment on exported functions and on exported methods of exported types.
func (c *checker) function(d *ast.FuncDecl) {
	if d.Doc != nil || !d.Name.IsExported() {
		return
	}
	if d.Recv == nil {
		c.report(d.Pos(), "func %s", d.Name.Name)
		return
	}
	receiver := receiverName(d.Recv.List[0].Type)
	if ast.IsExported(receiver) && !selfExplaining(d) {
		c.report(d.Pos(), "method %s.%s", receiver, d.Name.Name)
	}
}

func receiverName(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return receiverName(e.X)
	case *ast.IndexExpr:
		return receiverName(e.X)
	case *ast.IndexListExpr:
		return receiverName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// selfExplaining are the methods that every reader knows: func() string and the like.
func selfExplaining(d *ast.FuncDecl) bool {
	switch d.Name.Name {
	case "Error", "String", "GoString", "Unwrap":
		return d.Type.Params.NumFields() == 0
	}
	return false
}

func (c *checker) group(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				c.report(s.Pos(), "type %s", s.Name.Name)
			}
			if i, ok := s.Type.(*ast.InterfaceType); ok && s.Name.IsExported() {
				c.interfaceMethods(s.Name.Name, i)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					c.report(name.Pos(), "%s %s", d.Tok, name.Name)
				}
			}
		}
	}
}

func (c *checker) interfaceMethods(name string, i *ast.InterfaceType) {
	for _, field := range i.Methods.List {
		if _, ok := field.Type.(*ast.FuncType); !ok || field.Doc != nil || field.Comment != nil {
			continue // an embedded interface, or documented
		}
		for _, method := range field.Names {
			if method.IsExported() {
				c.report(method.Pos(), "method %s.%s", name, method.Name)
			}
		}
	}
}
