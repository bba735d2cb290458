// What a step comes to, on the device: the host reads it once the step is queued, and no kernel waits for the host.
// (cuda/step.rs has the same structure.)
struct Tally {
    // Sums over the step's heads, which head_totals adds to.
    double weighted_loss, weight;
    u64 counted, correct;
    // What `clip` leaves: the norm of all gradients, the factor that they are multiplied by, and whether parameters may
    // change: not if the loss or the norm is not finite.
    double gradient_norm;
    float scale;
    u32 update;
    // Whether any step was refused: no later one may change anything either. Clearing a tally ends before this.
    u32 refused, unused;
};

// For updates whose gradients were not clipped, `tally` is null.
DEVICE bool may_update(const Tally* tally) {
    return tally == nullptr || tally->update != 0;
}
DEVICE float clip_scale(const Tally* tally) {
    return tally == nullptr ? 1.0f : tally->scale;
}
