// A sender that signs as libraries which are not ours do. For each line of JSON
// on stdin, {"library": …, "secret": …, "id": …, "body": …}, it prints the
// headers of a request that is sent now, as a line of JSON.
import { createInterface } from 'node:readline';

import { sign } from '@octokit/webhooks-methods';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import Stripe from 'stripe';
import { Webhook as SvixWebhook } from 'svix';

const seconds = (time) => String(Math.floor(time.getTime() / 1000));

const libraries = {
  standardwebhooks: ({ secret, id, body }, now) => ({
    'webhook-id': id,
    'webhook-timestamp': seconds(now),
    'webhook-signature': new StandardWebhook(secret).sign(id, now, body),
  }),

  svix: ({ secret, id, body }, now) => ({
    'webhook-id': id,
    'webhook-timestamp': seconds(now),
    'webhook-signature': new SvixWebhook(secret).sign(id, now, body),
  }),

  stripe: ({ secret, body }) => ({
    'stripe-signature': Stripe.webhooks.generateTestHeaderString({ payload: body, secret }),
  }),

  octokit: async ({ secret, id, body }) => ({
    'x-github-event': 'push',
    'x-github-delivery': id,
    'x-hub-signature-256': await sign(secret, body),
  }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  console.log(JSON.stringify(await libraries[request.library](request, new Date())));
}
