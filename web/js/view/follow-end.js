// Keeps the end of the transcript in view while the reader is at the end, and leaves them alone when they are not.

const NEAR = 8;

export class FollowEnd {
  /** @param {HTMLElement} scroller @param {HTMLButtonElement} button  "jump to latest", shown while away from the end */
  constructor(scroller, button) {
    this.scroller = scroller;
    this.button = button;
    this.following = true;
    this.last = 0;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // A wheel or a key moves the page step by step; waiting until it is far from the end would pull it back each time.
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.#leave(), { passive: true });
    scroller.addEventListener("keydown", (event) => ["ArrowUp", "PageUp", "Home"].includes(event.key) && this.#leave());
    button.addEventListener("click", () => {
      this.jump();
      scroller.focus({ preventScroll: true });
    });
    // Pictures of the text grow when the window narrows or the composer grows.
    new ResizeObserver(() => this.keep()).observe(scroller);
  }

  get distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  #leave() {
    if (this.scroller.scrollHeight > this.scroller.clientHeight) this.#set(false);
  }

  #scrolled() {
    const { scrollTop } = this.scroller;
    const up = scrollTop < this.last - 1;
    this.last = scrollTop;
    if (this.distance <= NEAR) {
      if (!up || this.distance <= 1) this.#set(true);
    } else if (up) {
      this.#set(false);
    }
    if (!this.following) this.#show();
  }

  #set(following) {
    this.following = following;
    this.#show();
  }

  #show() {
    this.button.hidden = this.following || this.distance <= NEAR;
  }

  /** To be called when the transcript has changed. */
  keep() {
    if (this.following) this.jump();
    else this.#show();
  }

  /** To the end, and follows it from now on. */
  jump() {
    this.following = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.last = this.scroller.scrollTop;
    this.#show();
  }
}
