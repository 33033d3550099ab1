// Package blackbox tests `fanfare hooks` from outside: it builds the binary
// once, runs it, and speaks HTTP to it, byte by byte where that matters. It has
// no code of its own.
//
// testdata/cases has tables of requests and what is answered. Every table is
// served twice: from a JSON file over TCP, and from a YAML file over a Unix
// socket. testdata/load.yaml has hooks files and what is made of them.
package blackbox
