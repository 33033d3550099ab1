// A receiver that believes what libraries which are not ours believe. It is
// told which library to ask, and with which secrets, by each request's path:
// POST /{library}?secret=…&secret=…. It answers 204, or 401 and why not.
import { createPublicKey, verify as verifyEd25519 } from 'node:crypto';
import { createServer } from 'node:http';

import { verify, verifyWithFallback } from '@octokit/webhooks-methods';
import { HTTP } from 'cloudevents';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import Stripe from 'stripe';
import { Webhook as SvixWebhook } from 'svix';

const libraries = {
  standardwebhooks: (request, body, [secret]) => new StandardWebhook(secret).verify(body, request.headers),

  svix: (request, body, [secret]) => new SvixWebhook(secret).verify(body, request.headers),

  async octokit(request, body, [secret, ...others]) {
    const signature = request.headers['x-hub-signature-256'];
    const ok = others.length
      ? await verifyWithFallback(secret, body, signature, others)
      : await verify(secret, body, signature);
    if (!ok) throw new Error('octokit does not verify it');
  },

  // As octokit, by the secret from before the rotation.
  async 'octokit-previous'(request, body, [secret]) {
    if (!(await verify(secret, body, request.headers['x-hub-signature-256-previous']))) {
      throw new Error('octokit does not verify it');
    }
  },

  stripe: (request, body, [secret]) =>
    Stripe.webhooks.constructEvent(body, request.headers['stripe-signature'], secret),

  // v1a, with Node's own crypto and a key from our JSON Web Key Set.
  ed25519(request, body, [jwk]) {
    const key = createPublicKey({ key: JSON.parse(jwk), format: 'jwk' });
    const signed = Buffer.from(`${request.headers['webhook-id']}.${request.headers['webhook-timestamp']}.${body}`);
    const signatures = request.headers['webhook-signature'].split(' ').filter((s) => s.startsWith('v1a,'));
    if (!signatures.some((s) => verifyEd25519(null, signed, key, Buffer.from(s.slice('v1a,'.length), 'base64')))) {
      throw new Error('no v1a signature verifies');
    }
  },

  // An event of each CloudEvents mode, whole by the SDK's own schema.
  cloudevents(request, body) {
    const event = HTTP.toEvent({ headers: request.headers, body });
    event.validate();
    const want = { id: 'evt_1', type: 'order.created', source: '/shop', subject: 'order-42', datacontenttype: 'application/json' };
    for (const [name, value] of Object.entries(want)) {
      if (event[name] !== value) throw new Error(`${name} is ${event[name]}`);
    }
    if (event.data.order !== 42) throw new Error(`data is ${JSON.stringify(event.data)}`);
  },
};

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', async () => {
    const url = new URL(request.url, 'http://receiver');
    const check = libraries[url.pathname.slice(1)];
    try {
      await check(request, Buffer.concat(chunks).toString('utf8'), url.searchParams.getAll('secret'));
      response.writeHead(204).end();
    } catch (error) {
      response.writeHead(check ? 401 : 404).end(String(error?.message));
    }
  });
});

// Whoever started this reads the port, and closes stdin to end it.
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
