// Package hooks holds the engine of `fanfare hooks`, which runs commands on
// incoming webhooks and reads the files and the command line of
// adnanh/webhook 2.8.2. It has no code of its own.
//
//	daemon     start: flags resolved, sockets, privileges, signals, end
//	  server   the HTTP side: routes, limits, queues, reload
//	    command   what is run, with which arguments, and how it ends
//	    rules     whether it is run
//	      request    what came, and the values found in it
//	        spec       what a hooks file says
//	check      explains a hooks file, and what it does with a request
//	journal    the log, as upstream writes it or as JSON
//
// Being compatible means: whoever has a hooks.json or hooks.yaml and a command
// line for the other keeps both. docs/hooks.md lists every key and flag, and
// every place where this does something else on purpose. Where a comment here
// says "upstream", it means adnanh/webhook 2.8.2.
package hooks
