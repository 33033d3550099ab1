// Package command runs what a hook is for.
//
// There is no shell: a program, its arguments, its environment. It runs in a
// process group of its own, so that it can be ended with all it has started,
// and so that a signal to the server is none to it.
package command

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/request"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// envPrefix begins the variables to which a hook gives no name.
const envPrefix = "HOOK_"

// Invocation is a command with everything that it is given.
type Invocation struct {
	Hook string
	// Name is the command as the hook has it, and Path what was found for it.
	Name, Path string
	Dir        string
	// Args are the arguments, without the name.
	Args []string
	// Env are the variables of the hook, KEY=value; Inherited those of the
	// server.
	Env, Inherited []string
	Files          []File
	// Stdin is nil if the command has nothing to read.
	Stdin []byte

	shownArgs, shownEnv []string // the same for the log
}

// File is one that is written for the command.
type File struct {
	// Variable has the file's path; it is also how the name begins.
	Variable string
	Content  []byte
}

// NotFoundError says that there is no such program.
type NotFoundError struct {
	Command string
	Err     error
}

// Error implements error.
func (e *NotFoundError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *NotFoundError) Unwrap() error { return e.Err }

// Prepare finds the command of hook, and what it is to be given of r. What is
// not in r is told to logf: an argument becomes an empty string, so that the
// others keep their places; a variable or file is left out.
//
// It fails with a *NotFoundError only.
func Prepare(hook *spec.Hook, r *request.Request, logf request.Logf) (*Invocation, error) {
	path, err := Find(hook.Command, hook.Dir)
	if err != nil {
		logf("error in %v", err)
		if first, _, hasArgs := strings.Cut(hook.Command, " "); hasArgs {
			logf("use 'pass-arguments-to-command' to specify args for '%s'", first)
		}
		return nil, &NotFoundError{Command: hook.Command, Err: err}
	}
	i := &Invocation{Hook: hook.ID, Name: hook.Command, Path: path, Dir: hook.Dir}
	i.Inherited = inherited(hook.InheritEnvironment)
	i.addArgs(hook.Arguments, r, logf)
	i.addEnv(hook.Environment, r, logf)
	i.addFiles(hook.Files, r, logf)
	if hook.Stdin != nil {
		if text, ok := value(r, *hook.Stdin, "arguments for standard input", logf); ok {
			i.Stdin = []byte(text)
		}
	}
	return i, nil
}

// Find looks the command up: in dir, if there is one and command is relative,
// and then never in $PATH.
func Find(command, dir string) (string, error) {
	if dir != "" && !filepath.IsAbs(command) {
		command = filepath.Join(dir, command)
	}
	return exec.LookPath(command)
}

// value returns what arg stands for, or tells the log that there is nothing.
func value(r *request.Request, arg spec.Argument, what string, logf request.Logf) (string, bool) {
	text, err := r.Value(arg)
	if err != nil {
		logf("error extracting command %s: couldn't retrieve argument for %+v", what, arg)
	}
	return text, err == nil
}

func (i *Invocation) addArgs(args []spec.Argument, r *request.Request, logf request.Logf) {
	for _, arg := range args {
		text, _ := value(r, arg, "arguments", logf)
		i.Args = append(i.Args, text)
		i.shownArgs = append(i.shownArgs, shown(arg, text))
	}
}

func (i *Invocation) addEnv(args []spec.Argument, r *request.Request, logf request.Logf) {
	for _, arg := range args {
		text, ok := value(r, arg, "arguments for environment", logf)
		if !ok {
			continue
		}
		name := arg.EnvName
		if name == "" {
			name = envPrefix + arg.Name
		}
		i.Env = append(i.Env, name+"="+text)
		i.shownEnv = append(i.shownEnv, name+"="+shown(arg, text))
	}
}

func (i *Invocation) addFiles(args []spec.Argument, r *request.Request, logf request.Logf) {
	for _, arg := range args {
		text, ok := value(r, arg, "arguments for file", logf)
		if !ok {
			continue
		}
		content := []byte(text)
		if arg.Base64Decode {
			decoded, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				logf("error decoding string [%v]", err)
			}
			content = decoded // up to the mistake
		}
		name := arg.EnvName
		if name == "" {
			name = envPrefix + strings.ToUpper(arg.Name)
		}
		i.Files = append(i.Files, File{Variable: name, Content: content})
	}
}

// shown returns what the log shows of a value.
func shown(arg spec.Argument, text string) string {
	switch arg.Source {
	case spec.SourceString:
		return text // it is in the hooks file
	case spec.SourceEntireHeaders:
		return journal.Value("authorization", text)
	}
	return journal.Value(arg.Name, text)
}

// inherited returns the variables of the server that names allows; all of them
// if it is nil.
func inherited(names []string) []string {
	all := os.Environ()
	if names == nil {
		return all
	}
	allowed := []string{}
	for _, pair := range all {
		name, _, _ := strings.Cut(pair, "=")
		for _, pattern := range names {
			if prefix, ok := strings.CutSuffix(pattern, "*"); name == pattern || ok && strings.HasPrefix(name, prefix) {
				allowed = append(allowed, pair)
				break
			}
		}
	}
	return allowed
}

// String describes the invocation as upstream's log does.
func (i *Invocation) String() string {
	argv := append([]string{i.Name}, i.shownArgs...)
	return fmt.Sprintf("executing %s (%s) with arguments %q and environment %s using %s as cwd",
		i.Name, i.Path, argv, i.shownEnv, i.Dir)
}
