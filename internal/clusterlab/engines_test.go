package clusterlab_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// engineVariable holds the engine that a child process is to be, in JSON.
const engineVariable = "FANFARE_CLUSTERLAB_ENGINE"

// engineReady bounds the start of an engine.
const engineReady = 2 * time.Minute

// engine is one server of etcd or NATS, in a process of its own.
type engine struct {
	Kind   string   `json:"kind"` // etcd or nats
	Name   string   `json:"name"`
	Dir    string   `json:"dir"`
	Client string   `json:"client"` // host:port
	Peer   string   `json:"peer"`
	Names  []string `json:"names"` // of all servers
	Peers  []string `json:"peers"` // of all servers
}

func TestMain(m *testing.M) {
	text := os.Getenv(engineVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var e engine
	err := json.Unmarshal([]byte(text), &e)
	if err == nil {
		err = e.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run is what a child process does until its standard input ends, which it
// does at the latest with the test.
func (e engine) run() error {
	var stop func()
	var err error
	if e.Kind == "etcd" {
		stop, err = e.etcd()
	} else {
		stop, err = e.nats()
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", e.Name, err)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	stop()
	return err
}

func (e engine) etcd() (stop func(), err error) {
	at := func(address string) []url.URL { return []url.URL{{Scheme: "http", Host: address}} }
	config := embed.NewConfig()
	config.Name, config.Dir = e.Name, e.Dir
	config.ListenClientUrls, config.AdvertiseClientUrls = at(e.Client), at(e.Client)
	config.ListenPeerUrls, config.AdvertisePeerUrls = at(e.Peer), at(e.Peer)
	var all []string
	for i, name := range e.Names {
		all = append(all, name+"=http://"+e.Peers[i])
	}
	config.InitialCluster = strings.Join(all, ",")
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	return etcd.Close, nil
}

func (e engine) nats() (stop func(), err error) {
	host, port := split(e.Client)
	peerHost, peerPort := split(e.Peer)
	var routes []*url.URL
	for _, peer := range e.Peers {
		routes = append(routes, &url.URL{Scheme: "nats", Host: peer})
	}
	nats, err := natsserver.NewServer(&natsserver.Options{
		ServerName: e.Name, Host: host, Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: e.Dir, SyncAlways: true,
		// Clients are not told of the other servers: they know proxies.
		Cluster: natsserver.ClusterOpts{Name: "lab", Host: peerHost, Port: peerPort, NoAdvertise: true},
		Routes:  routes,
	})
	if err != nil {
		return nil, err
	}
	nats.Start()
	if !nats.ReadyForConnections(engineReady) {
		return nil, fmt.Errorf("not ready after %v", engineReady)
	}
	return func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	}, nil
}
