// SPDX-License-Identifier: Apache-2.0

/** Chance that can be repeated: a seed that fails is named, and fails again. */
export class Chance {
    #state: number;

    constructor(seed: number) {
        this.#state = seed + 1;
    }

    /** A number from 0 to `limit` - 1. */
    below(limit: number): number {
        // A multiplicative generator; its products are below 2 ** 53.
        this.#state = (this.#state * 48_271) % 2_147_483_647;
        return this.#state % limit;
    }

    of<Item>(...items: Item[]): Item {
        return items[this.below(items.length)]!;
    }
}
