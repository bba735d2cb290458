// Runs one test in a browser of its own profile, with a server of its own.

import { Chat } from "./driver.mjs";
import { startMock } from "./mock.mjs";

/**
 * @param {import("playwright-core").Browser} browser
 * @param {{name: string, run: (tools: any) => Promise<void>, mock?: object, viewport?: any, phone?: boolean, scheme?: any, unready?: boolean, hash?: string}} test
 * @param {{server?: string, pictures?: string, damage?: Function, tell: (line: string) => void, impatient?: boolean}} options
 * @returns {Promise<Error|null>} what was wrong
 */
export async function runTest(browser, test, { server, pictures, damage, tell, impatient }) {
  const mock = server ? null : await startMock({ ...test.mock, damage });
  const context = await browser.newContext({ viewport: test.viewport ?? { width: 1100, height: 760 }, colorScheme: test.scheme ?? "light", acceptDownloads: true, isMobile: test.phone, hasTouch: test.phone });
  try {
    const chat = new Chat(context, server ?? mock.url);
    if (server) chat.patience = 60_000;
    await chat.open(test.hash);
    if (!test.unready) await chat.ready();
    if (impatient) chat.setPatience(15_000);
    await test.run({ chat, mock, pictures, tell });
    chat.assertSound();
    return null;
  } catch (error) {
    return error;
  } finally {
    await context.close();
    await mock?.close();
  }
}
