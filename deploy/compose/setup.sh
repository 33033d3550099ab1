#!/bin/sh
# Makes what compose.yaml mounts: two authorities, certificates, the key of
# secrets and a first token. Run it once, in this folder; FANFARE names the
# binary. Nothing that exists is overwritten.
set -eu
cd "$(dirname "$0")"
fanfare=${FANFARE:-../../bin/fanfare}

# The cluster's authority vouches for members and for clients of the API.
"$fanfare" certs ca --dir secrets/cluster --name "Fanfare"
for n in 1 2; do
  "$fanfare" certs node --dir secrets/cluster --role coordinator --id coordinator-$n \
    --host "coordinator-$n,localhost,127.0.0.1"
done
"$fanfare" certs node --dir secrets/cluster --role worker --id workers
"$fanfare" certs client --dir secrets/cluster --id ops --tenant '*' --scopes admin

# Another one vouches inside etcd and NATS, so that no client of the API can
# talk to them.
"$fanfare" certs ca --dir secrets/engines --name "Fanfare engines"
"$fanfare" certs node --dir secrets/engines --role engine --id engine \
  --host "etcd-1,etcd-2,etcd-3,nats-1,nats-2,nats-3,localhost,127.0.0.1"
"$fanfare" certs node --dir secrets/engines --role worker --id fanfare

"$fanfare" keys create secrets/secrets.key
(umask 077; head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > secrets/postgres-password)
(umask 077; printf 'postgres://fanfare:%s@postgres:5432/fanfare?sslmode=disable' \
  "$(cat secrets/postgres-password)" > secrets/history-url)
(umask 077; printf 'FANFARE_HISTORY=%s\n' "$(cat secrets/history-url)" > secrets/coordinator.env)
# Who is told of alerts, and where telemetry goes: nobody and nowhere, until you
# change these.
for n in alerts telemetry; do (umask 077; cp $n.env.example secrets/$n.env); done
(umask 077; "$fanfare" tokens create --name first --tenant default --scopes publish,read,write \
  > secrets/tokens.yaml 2> secrets/first-token.txt)

# The containers run as another user. Who is not root here cannot give files
# away, so on a machine of your own they are made readable instead.
chmod 0755 secrets secrets/cluster secrets/engines
chmod 0644 secrets/*.key secrets/cluster/*.key secrets/engines/*.key secrets/tokens.yaml
chmod 0600 secrets/cluster/ca.key secrets/engines/ca.key
echo "made $(pwd)/secrets; the first token is in secrets/first-token.txt"
